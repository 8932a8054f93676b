"""Looking inside a run, as in the paper's Figures 12 and 13: attention, masks, losses, and the images on the way."""

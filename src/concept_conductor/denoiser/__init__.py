"""What is put into the U-Net so that all paths run in one forward, and taken out again."""

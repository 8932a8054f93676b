"""Other ways to put several concepts into one image, to compare with."""

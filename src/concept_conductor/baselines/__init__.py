"""Other ways of getting several concepts into one image, to compare with."""

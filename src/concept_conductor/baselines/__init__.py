"""Other ways of getting several concepts into one picture, to compare with."""

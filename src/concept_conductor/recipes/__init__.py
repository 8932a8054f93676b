"""Recipes: everything that decides an image, read from YAML and carried out."""

"""Layouts: a reference image with a place for each concept, from whatever the user has."""

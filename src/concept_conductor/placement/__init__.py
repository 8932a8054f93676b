"""Object placement: replace or add objects in a given image; all outside of a mask stays the image's own."""

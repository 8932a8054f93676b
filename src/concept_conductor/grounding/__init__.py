"""Text grounding: from an image and words to segments."""

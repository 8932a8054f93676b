"""Measuring: what is in an image, whose design it is, and how well it fits its prompt.

grounding (image + words -> segments) and embedders (images -> vectors) are the instruments; segsim, counting, text
and image_reward are the metrics made of them; scoring runs metrics over many images and keeps the results.
"""

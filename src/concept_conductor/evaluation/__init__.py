"""Measuring: what is in a picture, whose design it is, and how well it fits its prompt.

grounding (image + words -> segments) and embedders (pictures -> vectors) are the instruments; segsim, counting, text
and image_reward are the metrics made of them; scoring runs metrics over many images and keeps the results.
"""

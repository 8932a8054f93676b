"""Metrics of the paper and others, and what they measure with."""

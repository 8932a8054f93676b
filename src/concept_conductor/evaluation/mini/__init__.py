"""Measure the embedded model with its judge."""

"""Concept files: one module per format."""

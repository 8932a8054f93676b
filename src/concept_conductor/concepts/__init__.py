"""Concepts and their files: what a concept is, how it is spoken of, and one module per file format."""

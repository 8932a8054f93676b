"""The version, in the one place from which package and programs take it."""

__version__ = "0.1.0"

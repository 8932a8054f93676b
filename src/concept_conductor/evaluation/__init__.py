"""Measuring and comparing: metrics of images, benchmarks that make images by several methods, and reports of both."""

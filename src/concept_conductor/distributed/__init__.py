"""Benchmarks on many machines, with Ray."""

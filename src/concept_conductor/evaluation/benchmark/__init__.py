"""Benchmarks: what is made by which methods, job by job, resumable."""

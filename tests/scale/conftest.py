from tests.benchmarks.conftest import benchmark_file

__all__ = ["benchmark_file"]

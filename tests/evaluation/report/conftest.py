from tests.evaluation.benchmark.conftest import benchmark_file

__all__ = ["benchmark_file"]

from tests.evaluation.conftest import tiny_detector, tiny_segmenter, world

__all__ = ["tiny_detector", "tiny_segmenter", "world"]

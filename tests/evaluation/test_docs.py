"""docs/metrics.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from concept_conductor.evaluation.metrics.embedders import CLIP, DINOV2
from concept_conductor.evaluation.metrics.image_reward import IMAGE_REWARD, TOKENIZER
from concept_conductor.evaluation.metrics.instruments import Instruments
from concept_conductor.evaluation.metrics.items import Item
from concept_conductor.evaluation.metrics.registry import METRICS
from concept_conductor.evaluation.metrics.scoring import score_images
from concept_conductor.grounding.grounded_sam import GROUNDING_DINO, SAM

TEXT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def test_every_metric_and_model_is_in_its_table() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| `\w+` \|", TEXT, re.MULTILINE)) == set(METRICS)
    for checkpoint in (GROUNDING_DINO, SAM, CLIP, DINOV2, IMAGE_REWARD, TOKENIZER):
        assert any(checkpoint.name in line and checkpoint.revision in line for line in TEXT.splitlines())


def test_the_example_of_an_own_metric_runs(tmp_path) -> None:
    (example,) = [code for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "register_metric" in code]
    Image.new("RGB", (8, 8), (51, 51, 51)).save(tmp_path / "grey.png")
    try:
        exec(example, {})
        instruments = Instruments.for_model("mini", "cpu")
        (row,) = score_images([Item(tmp_path / "grey.png", "", ())], ["brightness"], instruments, tmp_path / "kept")
        assert row["brightness"] == 0.2
    finally:
        METRICS.pop("brightness", None)

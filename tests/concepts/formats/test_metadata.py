"""What LoRA files say of themselves."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import save_file

from concept_conductor.concepts.concept import Concept
from tests.concepts.models import (
    trained,
)


def test_trigger_words_come_from_the_header(tmp_path: Path) -> None:
    state = convert_state_dict_to_kohya(trained("sd15").packed)
    frequency = json.dumps({"10_sks dog": {"sks dog": 20, "outdoors": 9}, "5_reg": {"dog": 3}})
    headers: list[tuple[dict[str, str], str | None]] = [
        ({"ss_tag_frequency": frequency, "ss_output_name": "dog_v1"}, "sks dog"),
        ({"modelspec.trigger_phrase": "ohwx dog", "ss_tag_frequency": frequency}, "ohwx dog"),
        ({"ss_tag_frequency": "[1"}, None),
        ({"ss_tag_frequency": '{"a": 3}'}, None),
        ({}, None),
    ]
    for header, words in headers:
        save_file(state, tmp_path / "dog.safetensors", metadata=header)
        concept = Concept.load(tmp_path / "dog.safetensors")
        assert concept.phrase == words
        assert concept.placeholders == ()
        assert "ss_tag_frequency" not in concept.metadata or len(concept.metadata["ss_tag_frequency"]) < 300

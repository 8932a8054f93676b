"""A call's arguments: what people write works, all else is one sentence before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from concept_conductor import (
    Alignment,
    Concept,
    ConceptConductorPipeline,
    ConceptPrompt,
    ConductorError,
    Inversion,
    Trace,
)
from concept_conductor.pipeline.call import PipelineCall

BASE: dict[str, Any] = {
    "prompt": "a dog", "num_inference_steps": 4, "alignment": True, "refinement": True, "injection": True,
    "inversion": None, "callback_on_step_end_tensor_inputs": None,
}  # fmt: skip
DOG = Concept("dog", ({"<dog>": torch.zeros(1, 8)},))


def call(**changes: Any) -> PipelineCall:
    return PipelineCall.of(**{**BASE, **changes})


def test_none_and_false_mean_what_they_mean_elsewhere() -> None:
    made = call(
        concepts=None, negative_prompt=None, num_inference_steps=None, num_images_per_prompt=None, alignment=None,
        refinement=False, injection=True,
    )  # fmt: skip
    assert (made.concepts, made.negative_prompt, made.num_inference_steps, made.num_images_per_prompt) == (
        (),
        None,
        200,
        1,
    )
    assert made.alignment is None and made.refinement is None and made.injection is not None
    assert made.inversion == Inversion()
    assert made.callback_on_step_end_tensor_inputs == ("latents",)


def test_one_of_several_and_kinds_of_numbers() -> None:
    entry = ConceptPrompt(DOG, replaces="dog")
    assert call(concepts=entry).concepts == call(concepts=iter([entry])).concepts == (entry,)
    assert call(num_inference_steps=np.int64(7)).num_inference_steps == 7
    assert call(guidance_scale=np.float32(2)).guidance_scale == 2
    assert call(alignment={"step_size": 3}).alignment == Alignment(step_size=3)
    assert call(generator=3).generator.initial_seed() == 3  # type: ignore[union-attr]
    assert isinstance(call(trace="inside").trace, Trace)
    array = np.zeros((1, 4, 8, 8), np.float32)
    assert call(latents=array).latents.shape == (1, 4, 8, 8)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ["a", "b"]}, "'prompt': expected one text, but a list of 2 came; call once for each"),
        ({"prompt": b"a"}, "'prompt': expected"),
        ({"prompt": "a \ud800"}, "character 3 is half a surrogate pair"),
        ({"negative_prompt": ["bad"]}, "'negative_prompt': expected"),
        ({"concepts": [DOG]}, r"expected ConceptPrompt\(concept, .*but number 1 is a Concept"),
        ({"concepts": 5}, "number 1 is a int"),
        ({"layout": "street.png"}, "'layout': expected an instance of Layout, but it is 'street.png'"),
        ({"placement": 1}, "'placement': expected an instance of Placement"),
        ({"num_inference_steps": "4"}, "'num_inference_steps': expected a whole number, but it is '4'"),
        ({"num_inference_steps": 4.0}, "expected a whole number, but it is 4.0"),
        ({"num_images_per_prompt": True}, "expected a whole number, but it is True"),
        ({"height": 64.5}, "'height': expected a whole number"),
        ({"guidance_scale": float("nan")}, "'guidance_scale': expected a finite number"),
        ({"guidance_scale": "7"}, "'guidance_scale': expected a number, but it is '7'"),
        ({"generator": -1}, "a seed is a whole number from 0"),
        ({"generator": [None]}, r"expected a torch.Generator, a list of them or a seed, but it is \[None\]"),
        ({"latents": torch.full((1, 4, 8, 8), float("inf"))}, "some are NaN or infinite"),
        ({"latents": torch.zeros(1, 4, 8, 8, dtype=torch.long)}, "it is a tensor of torch.int64"),
        ({"latents": "noise"}, "it is a str"),
        ({"alignment": {"size": 1}}, "'alignment.size' is not known; did you mean 'step_size'"),
        ({"alignment": "strong"}, "'alignment': expected"),
        ({"callback_on_step_end": 5}, "'callback_on_step_end': expected callable"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "can be given latents, but 'noise' was asked for"),
        ({"trace": True}, r"expected a folder or a Trace\(folder, ...\), but it is True"),
        ({"output_type": "jpg"}, "expected 'pil', 'np', 'pt' or 'latent', but it is 'jpg'"),
    ],
)
def test_all_else_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConductorError, match=message):
        call(**changes)


class TestCallback:
    latents = torch.zeros(1, 4, 8, 8, dtype=torch.float16)

    def test_latents_in_another_type_are_taken_in_the_runs_own(self) -> None:
        changed = call().replaced_latents({"latents": torch.ones(1, 4, 8, 8, dtype=torch.float64)}, self.latents)
        assert changed is not None and changed.dtype == torch.float16 and bool((changed == 1).all())

    @pytest.mark.parametrize("returned", [None, {}, {"latents": None}])
    def test_nothing_changes_nothing(self, returned: Any) -> None:
        assert call().replaced_latents(returned, self.latents) is None

    @pytest.mark.parametrize(
        ("returned", "message"),
        [
            (torch.zeros(1, 4, 8, 8), "must return a dictionary .* but it returned a Tensor"),
            (
                {"latents": torch.zeros(1, 4, 8, 4)},
                r"must be a tensor of \(1, 4, 8, 8\) .* but they are \(1, 4, 8, 4\)",
            ),
            ({"latents": np.zeros((1, 4, 8, 8))}, "but they are a ndarray"),
            ({"latents": torch.full((1, 4, 8, 8), float("nan"))}, "must be finite"),
        ],
    )
    def test_what_cannot_be_latents(self, returned: Any, message: str) -> None:
        with pytest.raises(ConductorError, match=message):
            call().replaced_latents(returned, self.latents)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"replaces": []}, "names no words"),
        ({"replaces": [5]}, "must be text"),
        ({"prompt": 5}, "must be text"),
        ({"replaces": "dog", "weight": float("nan")}, "from -10 to 10, but it is nan"),
        ({"replaces": "dog", "weight": 1e6}, "from -10 to 10"),
        ({"replaces": "dog", "weight": "0.7"}, "must be a number, but it is '0.7'"),
        ({"replaces": "dog", "weight": None}, "must be a number"),
    ],
)
def test_concept_prompts(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConductorError, match=message):
        ConceptPrompt(DOG, **how)


def test_a_concept_is_loaded_by_its_name() -> None:
    assert ConceptPrompt("mini/dog-noto", replaces="dog").concept.name == "dog-noto"
    with pytest.raises(ConductorError, match="needs a Concept, or the path or name of one, but a int came"):
        ConceptPrompt(5, replaces="dog")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: Concept.load(None), "expected the name of a concept's file, .* but a NoneType came"),
        (lambda: ConceptConductorPipeline.from_pretrained(None), "expected 'mini', .* but a NoneType came"),
        (lambda: ConceptConductorPipeline.from_components(None), "a loaded diffusers pipeline, but a NoneType came"),
    ],
)
def test_nothing_to_load(load: Any, message: str) -> None:
    with pytest.raises(ConductorError, match=message):
        load()

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from concept_conductor import Alignment, ConceptConductorPipeline, Injection, Inversion, Refinement
from concept_conductor.backbones.defaults import read_model_settings
from concept_conductor.errors import ConductorError
from concept_conductor.mini import MODEL_FOLDER
from concept_conductor.settings import step_at


def test_the_papers_windows() -> None:
    alignment = Alignment(end=0.30)
    assert sorted(alignment.aligned_steps(200)) == list(range(61))
    refinement = Refinement(start=0.25, end=0.40, every=5)
    assert sorted(refinement.refined_steps(200)) == [50, 55, 60, 65, 70, 75, 80]
    assert sorted(refinement.refined_steps(50)) == [13, 14, 15, 16, 18, 19, 20]  # 12.5 -> 13, 13.75 -> 14, ...


@given(steps=st.integers(1, 400), fraction=st.floats(0, 1))
def test_windows_scale_with_the_run(steps: int, fraction: float) -> None:
    assert 0 <= step_at(fraction, steps) <= steps


@pytest.mark.parametrize(
    "build",
    [
        lambda: Alignment(end=1.5),
        lambda: Alignment(step_size=-1),
        lambda: Alignment(step_size=float("nan")),
        lambda: Alignment(strength=3),  # type: ignore[call-arg]
        lambda: Refinement(start=0.5, end=0.4),
        lambda: Refinement(every=0),
        lambda: Inversion(steps=0),
        lambda: Injection(blocks=()),
        lambda: Injection(blocks=("decoder",)),  # type: ignore[arg-type]
    ],
)
def test_nonsense_is_refused(build: object) -> None:
    with pytest.raises(ValidationError):
        build()  # type: ignore[operator]


def test_the_blocks_that_are_fused() -> None:
    decoder = Injection(blocks=("up",), self_attention=False)
    assert decoder.fuses("up", cross_attention=True)
    assert not decoder.fuses("up", cross_attention=False)
    assert not decoder.fuses("mid", cross_attention=True)


def test_the_family_fuses_the_decoder_and_mini_all(tiny_pipe: ConceptConductorPipeline) -> None:
    assert tiny_pipe.defaults.injection.blocks == ("up",)
    mini = read_model_settings(MODEL_FOLDER, tiny_pipe.defaults)
    assert mini.injection.blocks == ("down", "mid", "up")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Alignment(end=0.3).end = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    ['{"guidance_scale": Infinity}', '{"guidance_scale": NaN}', f'{{"guidance_scale": {"9" * 5000}}}', "[" * 99_999],
)
def test_a_models_own_values_are_finite(tmp_path, tiny_pipe, text: str) -> None:
    (tmp_path / "conductor.json").write_text(text)
    with pytest.raises(ConductorError, match=r"conductor\.json.* is no valid JSON .*; it is damaged"):
        read_model_settings(tmp_path, tiny_pipe.defaults)

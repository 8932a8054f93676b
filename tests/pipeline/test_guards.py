"""What guards a call: one run at a time in a model, latents that stay numbers, inference mode around it."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import torch

from concept_conductor import BusyError, ConceptConductorPipeline, ConductorError
from concept_conductor.pipeline.finite import FiniteLatents, check_pixels


def test_a_second_thread_is_told_before_it_reads_a_prompt(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]
) -> None:
    """The first call's LoRA is in the text encoder while its prompts are read: the second must not read with it."""
    told: list[BaseException] = []
    prompts = 0

    def other() -> None:
        try:
            tiny_pipe("a cat", num_inference_steps=1, output_type="latent")
        except BaseException as error:
            told.append(error)

    def while_reading(*_: object) -> None:
        nonlocal prompts
        prompts += 1
        if threading.current_thread() is threading.main_thread() and prompts == 3:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    handle = tiny_pipe.text_encoder.get_input_embeddings().register_forward_pre_hook(while_reading)
    try:
        tiny_pipe(**{**tiny_call, "num_inference_steps": 2, "alignment": None})
    finally:
        handle.remove()
    (error,) = told
    assert isinstance(error, BusyError)
    tiny_pipe("a cat", num_inference_steps=1, output_type="latent")  # the guard is gone with the run


def test_inference_mode_around_a_call(tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]) -> None:
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = tiny_pipe(**{**tiny_call, "latents": latents, "num_inference_steps": 2}).images
    with torch.inference_mode():
        inside = tiny_pipe(**{**tiny_call, "latents": latents.clone(), "num_inference_steps": 2}).images
    assert torch.allclose(plain, inside, atol=1e-5)


def test_the_step_whose_latents_are_no_numbers_is_named(
    tiny_pipe: ConceptConductorPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = 0

    def overflow(_module: object, _args: object, output: Any) -> Any:
        nonlocal forwards
        forwards += 1
        return (output[0] * (torch.nan if forwards == 2 else 1),)

    handle = tiny_pipe.unet.register_forward_hook(overflow)
    try:
        with pytest.raises(ConductorError, match="step 2 of 3 gave latents that are not numbers.*float32"):
            tiny_pipe("a dog", num_inference_steps=3, output_type="latent")
    finally:
        handle.remove()


def test_on_a_device_that_is_not_waited_for_the_end_tells() -> None:
    watched = FiniteLatents(3)
    watched._finite = [torch.tensor(True), torch.tensor(False), torch.tensor(False)]
    with pytest.raises(ConductorError, match="step 2 of 3"):
        watched.check()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vae_that_overflows_gives_no_black_image(
    tiny_pipe: ConceptConductorPipeline, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = tiny_pipe.vae.decode
    monkeypatch.setattr(tiny_pipe.vae, "decode", lambda *args, **kwargs: (decode(*args, **kwargs)[0] * value,))
    with pytest.raises(ConductorError, match="the VAE decoded .* not numbers .*another VAE"):
        tiny_pipe("a dog", num_inference_steps=1)


def test_good_pixels_pass() -> None:
    check_pixels(torch.rand(1, 3, 8, 8))


def test_other_tools_syntax_is_named_once(
    tiny_pipe: ConceptConductorPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            tiny_pipe("a (guarded dog:1.3) BREAK", num_inference_steps=1, output_type="latent")
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("prompts are plain words here, so that '(guarded dog:1.3)', 'BREAK' are read literally")

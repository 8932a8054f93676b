"""Adapters that PEFT has written, and what it makes of them itself."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from concept_conductor.concepts.data import LowRank


def adapter(network: torch.nn.Module, folder: Path, **settings: Any) -> dict[str, Tensor]:
    """Save a trained adapter; return what PEFT itself makes of it: layer -> difference of the weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings without data, of transformers to PEFT
        tuned = get_peft_model(copy.deepcopy(network), LoraConfig(**{"r": 2, "lora_alpha": 3, **settings}))
        torch.manual_seed(3)
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.data += 0.05 * torch.randn_like(parameter)
        tuned.save_pretrained(str(folder))
        merged = PeftModel.from_pretrained(copy.deepcopy(network), str(folder)).merge_and_unload()
    before = dict(network.named_parameters())
    return {
        name.removesuffix(".weight").removeprefix("text_model."): weight - before[name]
        for name, weight in merged.named_parameters()
        if (weight - before[name]).abs().max() > 1e-7
    }


def assert_same_differences(updates: Any, expected: dict[str, Tensor]) -> None:
    assert updates.keys() == expected.keys()
    for name, update in updates.items():
        assert isinstance(update, LowRank)
        difference = torch.einsum("or,r...->o...", update.up, update.down)
        torch.testing.assert_close(difference, expected[name], rtol=1e-4, atol=1e-6)

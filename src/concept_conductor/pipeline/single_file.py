"""Checkpoints in one file, in Stability's layout: what they hold, what they say of themselves, and what they lack."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from concept_conductor.backbones.meta import UNET, VAE
from concept_conductor.errors import ConductorError, FamilyError
from concept_conductor.pipeline import stability_names as names
from concept_conductor.pipeline.weights import Stored, StoredTensor, check_all, counted, open_file

#: What diffusers calls the checkpoints of the supported families -> the family.
KINDS = {"v1": "sd15", "v2": "sd21", "xl_base": "sdxl"}
#: How the names of tensors start that only concept files have.
PARTS_OF_CONCEPTS = ("lora_", "unet.", "text_encoder.", "text_encoder_2.", "base_model.")
#: Family -> text encoder -> the prefix of its weights, and whether they are OpenCLIP's.
TEXT_PREFIXES = {
    "sd15": {"text_encoder": ("cond_stage_model.transformer.", False)},
    "sd21": {"text_encoder": ("cond_stage_model.model.", True)},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.", False),
        "text_encoder_2": ("conditioner.embedders.1.model.", True),
    },
}

V_PREDICTION, ZERO_SNR, EDM = "v_pred", "ztsnr", "edm_"
SCALED = "scaled_fp8"
SCALES = (".scale_weight", ".weight_scale")
INPUT_SCALES = (".scale_input", ".input_scale")
"""For multiplying in eight bits, which is not done here."""

UNUSED = re.compile(
    r"""(model_ema\.|first_stage_model\.loss\.|embedding_manager\.).*  # of the training
    |(alphas_cumprod(_prev)?|betas|logvar|sqrt_(one_minus_)?alphas_cumprod|log_one_minus_alphas_cumprod
    |sqrt_recipm?1?_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])|denoiser\.sigmas)
    |(cond_stage_model|conditioner\.embedders\.[01])\.  # of CLIP, but not of its text encoder
     (.*\.)?(logit_scale|attn_mask|position_ids|text_projection(\.weight)?)
    """,
    re.VERBOSE,
)
"""Tensors that checkpoints have and nobody reads."""

PREDICTIONS = {
    "epsilon": "epsilon", "eps": "epsilon",
    "v": "v_prediction", "v_prediction": "v_prediction", "v-prediction": "v_prediction",
}  # fmt: skip
"""How the headers of checkpoints spell what they predict."""
SD2_BASE_STEPS = 875_000
"""``global_step`` of SD2's base model, which predicts noise; diffusers tells it by that too."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is open.

    Attributes:
        file: where.
        family: "sd15", "sd21" or "sdxl".
        stored: its weights, multiplied by their scales.
        prediction: what its U-Net predicts as far as it says so.
        zero_snr: whether it says that its last timestep is pure noise.
        alphas: the products of its noise schedule, where it has them.
    """

    file: Path
    family: str
    stored: Stored
    prediction: str | None
    zero_snr: bool
    alphas: StoredTensor | None

    @property
    def what(self) -> str:
        """What this is, for messages."""
        return f"the checkpoint '{self.file}'"

    def match(self, networks: Mapping[str, nn.Module]) -> dict[str, Stored]:
        """Return each network's weights by the network's own names.

        Raises:
            ConductorError: weights are missing, over, or of other shapes or number types.
        """
        used: set[str] = set()
        found: dict[str, Stored] = {}
        for name, network in networks.items():
            found[name] = self._weights(name, network, used)
        try:
            for name, network in networks.items():
                check_all(network, found[name], [], f"the {name} of {self.what}")
        except ConductorError as error:
            raise ConductorError(
                f"{str(error).partition(';')[0]}; expected all weights of a Stable Diffusion 1.x, 2.x or XL (base) "
                "model, and in config=, where it is given, a diffusers folder of the same family"
            ) from error
        # SD2 does not read the last layer of its text encoder, which checkpoints hold nevertheless
        layers = max(int(getattr(network.config, "num_hidden_layers", 0)) for network in networks.values())
        last = f"cond_stage_model.model.transformer.resblocks.{layers}."
        over = [name for name in self.stored if name not in used and not UNUSED.fullmatch(name)]
        if over := [name for name in over if not name.startswith(last)]:
            raise ConductorError(
                f"{self.what} holds {counted(over)} beside a Stable Diffusion model's weights, and might mean another "
                "model or another way to compute; expected a plain checkpoint"
            )
        return found

    def _weights(self, name: str, network: nn.Module, used: set[str]) -> dict[str, StoredTensor]:
        config: Any = network.config
        if name in (UNET, VAE):
            prefix = names.UNET_PREFIX if name == UNET else names.VAE_PREFIX
            place = names.unet_place if name == UNET else names.vae_place
            stored = {key.removeprefix(prefix): key for key in self.stored if key.startswith(prefix)}
            places = {key: place(key, config) for key in network.state_dict()}
        else:
            prefix, open_clip = TEXT_PREFIXES[self.family][name]
            stored = {names.plain(key.removeprefix(prefix)): key for key in self.stored if key.startswith(prefix)}
            places = {
                key: names.open_clip_place(names.plain(key)) if open_clip else names.Place(names.plain(key))
                for key in network.state_dict()
            }
        own = network.state_dict()
        found = {}
        for key, where in places.items():
            if where.name in stored:
                used.add(stored[where.name])
                found[key] = names.taken(self.stored[stored[where.name]], where, tuple(own[key].shape))
        return found


@contextmanager
def open_checkpoint(file: Path) -> Iterator[Checkpoint]:
    """Open a checkpoint, whose weights are read later, within the block.

    Raises:
        ConductorError: there is none, it is damaged, a concept's, or quantized in a way that is not undone.
        FamilyError: it is of no supported family.
    """
    with ExitStack() as stack:
        try:
            tensors, facts = stack.enter_context(open_file(file))
        except ConductorError as error:
            raise ConductorError(f"the checkpoint {error}") from error
        yield _inspected(file, tensors, facts)


def _inspected(file: Path, tensors: dict[str, StoredTensor], facts: Mapping[str, Any]) -> Checkpoint:
    if any(name.startswith(PARTS_OF_CONCEPTS) for name in tensors):
        raise ConductorError(f"'{file}' is no checkpoint; a concept's file belongs among the concepts")
    if marker := next((name for name in tensors if name.startswith(EDM)), None):
        raise FamilyError(
            f"the checkpoint '{file}' is trained with EDM's noise ('{marker:.60}'), from which this method cannot "
            "sample; expected a Stable Diffusion model that predicts noise or velocity"
        )
    kind = _kind(file, tensors)
    if kind not in KINDS:
        raise FamilyError(
            f"the checkpoint '{file}' is of the kind '{kind}'; expected Stable Diffusion 1.x, 2.x or XL (base)"
        )
    markers = {name for name in (V_PREDICTION, ZERO_SNR) if tensors.pop(name, None) is not None}
    prediction = _said(file, facts, kind)
    if V_PREDICTION in markers:
        if prediction == "epsilon":
            raise ConductorError(
                f"the checkpoint '{file}' is marked as predicting velocity, but its header says noise; say which with "
                "prediction_type"
            )
        prediction = "v_prediction"
    stored = multiplied(file, tensors)
    return Checkpoint(file, KINDS[kind], stored, prediction, ZERO_SNR in markers, tensors.get("alphas_cumprod"))


def _kind(file: Path, tensors: Mapping[str, StoredTensor]) -> str:
    """Return what diffusers calls a checkpoint of these weights, told by their names and shapes."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    try:
        return str(infer_diffusers_model_type(tensors))
    except (IndexError, KeyError) as error:
        raise ConductorError(f"the checkpoint '{file}' could not be read: its weights have odd shapes") from error


def _said(file: Path, facts: Mapping[str, Any], kind: str) -> str | None:
    """Return what a checkpoint says of its prediction, in a safetensors header or beside a pickle's weights."""
    for name in ("modelspec.prediction_type", "modelspec.predict_key"):
        if isinstance(value := facts.get(name), str) and value:
            if value.lower() not in PREDICTIONS:
                raise FamilyError(
                    f"the checkpoint '{file}' predicts '{value:.40}' by its header; expected one that predicts noise "
                    "(epsilon) or velocity (v_prediction)"
                )
            return PREDICTIONS[value.lower()]
    if kind == "v2":
        if str(facts.get("modelspec.architecture", "")).endswith("-v"):
            return "v_prediction"
        if facts.get("global_step") == SD2_BASE_STEPS:
            return "epsilon"
    return None


def multiplied(file: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return a checkpoint's weights, those in eight bits multiplied by the scales that lie beside them.

    Raises:
        ConductorError: a scale belongs to no weight, is no single number, or the weights are quantized in another way.
    """
    if other := next((name for name in tensors if name.endswith((".comfy_quant", ".weight_scale_2"))), None):
        raise ConductorError(
            f"the checkpoint '{file}' is quantized ('{other:.80}'); expected float32, float16, bfloat16 or scaled "
            "float8 weights"
        )
    found = dict(tensors)
    for name in tensors:
        if name == SCALED or name.endswith((f".{SCALED}", *INPUT_SCALES)):
            del found[name]
        elif name.endswith(SCALES):
            scale, weight = found.pop(name), name.rpartition(".")[0] + ".weight"
            if weight not in tensors or math.prod(scale.shape) != 1 or scale.dtype is None:
                raise ConductorError(
                    f"the checkpoint '{file}' has the scale '{name:.80}' in the shape {scale.shape}; expected one "
                    "number beside each weight in eight bits"
                )
            factor = float(scale.read())
            if not 0 < factor < math.inf:
                raise ConductorError(f"the checkpoint '{file}' has the scale '{name:.80}' as {factor}; it is damaged")
            found[weight] = _scaled(tensors[weight], factor)
    return found


def _scaled(stored: StoredTensor, factor: float) -> StoredTensor:
    return replace(stored, dtype=stored.dtype and torch.float32, read=lambda: stored.read().float() * factor)

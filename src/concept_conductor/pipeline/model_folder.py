"""Model folders: read and checked here whole, and only then made into networks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn
from transformers import CLIPTokenizer

from concept_conductor.backbones import family_of
from concept_conductor.backbones.defaults import read_model_settings
from concept_conductor.backbones.meta import SCHEDULER, TEXT_ENCODERS, UNET, VAE, MetaModel
from concept_conductor.backbones.model_files import ModelFiles
from concept_conductor.backbones.scheduler_config import check_scheduler
from concept_conductor.errors import ConductorError
from concept_conductor.pipeline.model_index import INDEX_FILE, ModelIndex
from concept_conductor.pipeline.safety_checker import CHECKER, PROCESSOR, make_checker, make_processor
from concept_conductor.pipeline.tokenizer_files import read_tokenizer
from concept_conductor.pipeline.weights import Stored, fill, match, open_weights

ADAPTER = "adapter_config.json"
SHARD = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.(safetensors|bin)")
DIFFUSERS = {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"}
TRANSFORMERS = {"safetensors": "model", "bin": "pytorch_model"}
STEMS = {UNET: DIFFUSERS, VAE: DIFFUSERS, CHECKER: TRANSFORMERS, **dict.fromkeys(TEXT_ENCODERS, TRANSFORMERS)}
"""Network -> kind of file -> how its weight files are called."""
ANY_END = 2
"""What older text encoders call the end of a text; transformers then takes the token of the highest number for it."""
TOKENIZERS = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}


@dataclass(frozen=True)
class ModelSetup:
    """All of a model but its weights.

    Attributes:
        files: where it comes from.
        index: its parts and flags.
        meta: its configurations.
        tokenizers: by their parts' names.
        given: parts that the caller has made; None for one that is left out.
    """

    files: ModelFiles
    index: ModelIndex
    meta: MetaModel
    tokenizers: dict[str, CLIPTokenizer]
    given: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, given: Mapping[str, Any]) -> ModelSetup:
        """Read the index, configurations and tokenizers of a folder.

        Raises:
            ConductorError: what is there is missing, damaged, or not honoured; one sentence.
        """
        files = ModelFiles(folder)
        index = ModelIndex.read(files.json(INDEX_FILE), str(folder))
        meta = MetaModel.read(folder, set(index.parts) - given.keys())
        tokenizers = {}
        for name, encoder in TOKENIZERS.items():
            if name in index.parts and name not in given:
                rows, positions = _text_shape(meta.configs.get(encoder), given.get(encoder))
                tokenizers[name] = read_tokenizer(files, name, rows, positions)
        _check_summary(meta.configs.get("text_encoder_2"), tokenizers.get("tokenizer_2"), folder)
        setup = cls(files, index, meta, tokenizers, given)
        return setup if SCHEDULER in given else setup._with_schedule(setup._usual_schedule())

    @property
    def what(self) -> str:
        """What this is, for messages."""
        return f"the model '{self.files.root}'"

    def predicting(self, kind: str | None, *, zero_snr: bool = False) -> ModelSetup:
        """Return the same setup with another prediction type than its scheduler's, and its betas rescaled.

        Args:
            kind: "epsilon" or "v_prediction"; None leaves both as they are.
            zero_snr: rescale the betas, so that the last timestep is pure noise.

        Raises:
            ConductorError: such a scheduler cannot be.
        """
        if kind is None:
            return self
        if SCHEDULER in self.given:
            raise ConductorError("prediction_type= is for the model's own scheduler; leave out one of the two")
        changes: dict[str, Any] = {"prediction_type": kind}
        if zero_snr:
            changes["rescale_betas_zero_snr"] = True
        return self._with_schedule(changes)

    @property
    def prediction(self) -> str:
        """What its scheduler says that the U-Net predicts."""
        return str(self.meta.configs[SCHEDULER].get("prediction_type", "epsilon"))

    def _usual_schedule(self) -> dict[str, Any]:
        """Return what diffusers puts right in the schedulers of SD1.x and SD2.x.

        Raises:
            ConductorError: SDXL's clips latents, which this method does not.
        """
        if "text_encoder_2" not in self.index.parts:
            return {"steps_offset": 1, "clip_sample": False}
        if self.meta.configs[SCHEDULER].get("clip_sample"):
            raise ConductorError(f"the scheduler of {self.what} clips latents ('clip_sample'); expected false")
        return {}

    def _with_schedule(self, changes: Mapping[str, Any]) -> ModelSetup:
        config = check_scheduler({**self.meta.configs[SCHEDULER], **changes}, f"the scheduler of {self.what}")
        return replace(self, meta=replace(self.meta, configs={**self.meta.configs, SCHEDULER: config}))

    def networks(self) -> dict[str, nn.Module]:
        """Make the networks without data, on the ``meta`` device.

        Raises:
            ConductorError: the configurations describe none, or another file cannot be read.
            FamilyError: they are not of one supported family.
        """
        with torch.device("meta"):
            made = self.meta.networks()
        family = family_of({**made, **self.given}, self.what)
        read_model_settings(self.files.root, family.family_defaults)  # so that its errors come before the weights
        self._processor()  # and its too
        if self._has_checker:
            made[CHECKER] = make_checker(self.files)
        return made

    def _processor(self) -> Any:
        """Return what prepares images for the safety checker, None where there is none.

        Raises:
            ConductorError: it is missing or damaged.
        """
        return make_processor(self.files) if self._has_checker and PROCESSOR not in self.given else None

    @property
    def _has_checker(self) -> bool:
        """Whether a safety checker is to be read."""
        return CHECKER in self.index.parts and CHECKER not in self.given and "text_encoder_2" not in self.index.parts

    def pipeline(self, networks: Mapping[str, nn.Module]) -> DiffusionPipeline:
        """Put the family's own diffusers pipeline together.

        Raises:
            ConductorError: there is a safety checker, but nothing that prepares images for it.
        """
        parts: dict[str, Any] = {SCHEDULER: self.meta.scheduler(), CHECKER: None, PROCESSOR: self._processor()}
        parts |= {**networks, **self.tokenizers, **self.given}
        if "text_encoder_2" not in self.index.parts:
            if parts[CHECKER] is not None and parts[PROCESSOR] is None:
                raise ConductorError("the safety checker has no feature_extractor; leave out both, or none")
            return StableDiffusionPipeline(**parts, requires_safety_checker=parts[CHECKER] is not None)
        del parts[CHECKER]
        zeros = self.index.force_zeros
        return StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)


def _text_shape(config: Mapping[str, Any] | None, given: Any) -> tuple[int, int]:
    """Return how many tokens a text encoder knows, and how many it reads."""
    if config is None:
        return int(given.config.vocab_size), int(given.config.max_position_embeddings)
    return config.get("vocab_size", 49408), config.get("max_position_embeddings", 77)


def _check_summary(config: Mapping[str, Any] | None, tokenizer: CLIPTokenizer | None, folder: Path) -> None:
    """Raise ConductorError unless a second text encoder sums a text up at the token that ends it."""
    if config is None or tokenizer is None:
        return
    end, told = tokenizer.eos_token_id, config.get("eos_token_id", 49407)
    if told not in (end, ANY_END):
        raise ConductorError(
            f"'{folder / 'text_encoder_2' / 'config.json'}': 'eos_token_id' is {told}, but its tokenizer ends texts "
            f"with {end}; expected {end}"
        )


@contextmanager
def opened_weights(
    setup: ModelSetup, networks: Mapping[str, nn.Module], variant: str | None = None, safetensors: bool | None = None
) -> Iterator[dict[str, Stored]]:
    """Open the weights of every network, all of them checked before the block begins.

    Args:
        setup: of the folder.
        networks: without data.
        variant: such as "fp16", where there are weights of that variant.
        safetensors: whether to read those; None for pickles only where there are no others.

    Raises:
        ConductorError: a file or a tensor is missing, over, elsewhere, damaged or of another shape; one sentence.
    """
    found: dict[str, Stored] = {}
    with ExitStack() as stack:
        for name, network in networks.items():
            what = f"the {name} of {setup.what}"
            paths, shards = weight_files(setup.files, name, variant, safetensors)
            stored = stack.enter_context(open_weights(paths))
            if shards is not None and (wrong := _misplaced(stored, shards)):
                raise ConductorError(f"{what} has the weight '{wrong}' elsewhere than its index says; get it again")
            found[name] = match(network, stored, what)
        yield found


def load_folder(setup: ModelSetup, dtypes: Mapping[str, torch.dtype], **choice: Any) -> DiffusionPipeline:
    """Load a model folder.

    Args:
        setup: of the folder.
        dtypes: network -> what to keep its weights in; "default" for the others.
        choice: of weight files, as for :func:`opened_weights`.

    Raises:
        ConductorError: as for that.
    """
    networks = setup.networks()
    with opened_weights(setup, networks, **choice) as found:
        for name, network in networks.items():
            fill(network, found[name], dtypes.get(name, dtypes["default"]))
    return setup.pipeline(networks)


def weight_files(
    files: ModelFiles, part: str, variant: str | None, safetensors: bool | None
) -> tuple[list[Path], dict[str, str] | None]:
    """Return a network's weight files, and tensor -> file where there are several.

    Raises:
        ConductorError: there are none, or files beside them that would change them.
    """
    there = files.names(part)
    if ADAPTER in there:
        raise ConductorError(
            f"'{files.root / part}' holds an adapter ({ADAPTER}); expected a network alone, load that as a concept"
        )
    endings = [ending for ending in ("safetensors", "bin") if safetensors in (None, ending == "safetensors")]
    for name in [variant, None] if variant else [None]:
        marked = f".{name}" if name else ""
        for ending in endings:
            stem = STEMS[part][ending]
            single, index = f"{stem}{marked}.{ending}", f"{stem}.{ending}.index{marked}.json"
            if single in there and index in there:
                raise ConductorError(f"'{files.root / part}' holds both {single} and {index}; keep one of the two")
            if single in there:
                return [_path(files, f"{part}/{single}")], None
            if index in there:
                shards = _shards(files.json(f"{part}/{index}"), str(files.root / part / index))
                return [_path(files, f"{part}/{shard}") for shard in sorted(set(shards.values()))], shards
    others = [name for name in there if name.endswith((".safetensors", ".bin"))]
    hint = f", only {', '.join(others[:3])}" if others else ""
    wanted = " or ".join(f"{STEMS[part][ending]}.{ending}" for ending in endings)
    raise ConductorError(f"'{files.root / part}' holds no weights called {wanted}{hint}; get the model again, whole")


def _path(files: ModelFiles, name: str) -> Path:
    path = files.find(name)
    if path is None:
        raise ConductorError(f"the model '{files.root}' lacks {name}; get it again, whole")
    return path


def _shards(index: Mapping[str, Any], source: str) -> dict[str, str]:
    """Return tensor -> file of a shard index; only files beside the index are taken."""
    shards = index.get("weight_map")
    if not isinstance(shards, Mapping) or not shards:
        raise ConductorError(f"'{source}' has no 'weight_map'; expected tensors with the files that hold them")
    for tensor, name in shards.items():
        if not isinstance(name, str) or not SHARD.fullmatch(name):
            raise ConductorError(
                f"'{source}' says that '{tensor:.60}' lies in {name!r:.60}; expected the name of a .safetensors or "
                ".bin file beside it"
            )
    return dict(shards)


def _misplaced(stored: Stored, shards: Mapping[str, str]) -> str | None:
    """Return a tensor that is not where the index of shards says, or None."""
    for tensor in sorted(stored.keys() | shards.keys()):
        if tensor not in stored or stored[tensor].file.name != shards.get(tensor):
            return tensor
    return None

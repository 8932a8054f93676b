"""What is trained: the placeholders' vectors and the low-rank weights, beside a model that stays as it is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.text_encoders import TextEncoder
from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.data import LowRank
from concept_conductor.concepts.layer_names import TEXT_LINEARS, UNET_LINEARS
from concept_conductor.denoiser.layers import attention_layers
from concept_conductor.denoiser.lora import PathwiseLinear, find_layer
from concept_conductor.denoiser.paths import AllRows
from concept_conductor.errors import ConductorError
from concept_conductor.training.plan import Plan


class Pair(NamedTuple):
    """A trainable update as :class:`PathwiseLinear` has it: ``down (1, in, rank)``, ``up (1, rank, out)``."""

    down: nn.Parameter
    up: nn.Parameter

    @classmethod
    def fresh(cls, layer: nn.Linear, rank: int, generator: torch.Generator) -> Pair:
        """Make Kaiming-uniform down and zero up: the layer starts as it was."""
        down = torch.empty(rank, layer.in_features)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        up = torch.zeros(1, rank, layer.out_features)
        device = layer.weight.device
        return cls(nn.Parameter(down.T[None].contiguous().to(device)), nn.Parameter(up.to(device)))

    def low_rank(self) -> LowRank:
        """Return a copy as concept files have it."""
        return LowRank(*(half.detach()[0].T.contiguous().clone().cpu() for half in self))


class TrainableConcept:
    """A concept in the making, all in fp32.

    Attributes:
        tokens: for each text encoder, placeholder -> ``(layers, dim)``.
        text_encoders, unet: layer name -> trainable pair.
        frozen: for each text encoder, whether its vectors have reached the norm at which they stay.
    """

    def __init__(
        self, backbone: Backbone, placeholders: Sequence[str], initialisers: Sequence[str], plan: Plan, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        layers, text_encoders = backbone.text_layers, backbone.text_encoders
        self.tokens = tuple(
            {
                name: nn.Parameter(initial_vector(text_encoder, text, generator).expand(layers, -1).clone())
                for name, text in zip(placeholders, initialisers, strict=True)
            }
            for text_encoder in text_encoders
        )
        self.text_encoders = tuple(
            _pairs(text_encoder.model, text_layer_names(text_encoder.model), rank, generator)
            for text_encoder, rank in zip(text_encoders, plan.text_ranks, strict=True)
        )
        self.unet = _pairs(backbone.unet, unet_layer_names(backbone.unet), plan.unet_rank, generator)
        self._backbone = backbone
        self.frozen = [False] * len(text_encoders)

    def groups(self, plan: Plan) -> list[dict[str, object]]:
        """Return the optimiser's groups: each text encoder's vectors, each text encoder, the U-Net."""
        vectors = [list(table.values()) for table in self.tokens]
        layers = [[half for pair in pairs.values() for half in pair] for pairs in (*self.text_encoders, self.unet)]
        rates = (*plan.embedding_rates, *plan.text_rates, plan.unet_rate)
        return [{"params": params, "lr": rate} for params, rate in zip((*vectors, *layers), rates, strict=True)]

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """Inside this context the model's layers add the low-rank weights; afterwards they are what they were."""
        with ExitStack() as stack:
            for text_encoder, layers in zip(self._backbone.text_encoders, self.text_encoders, strict=True):
                stack.enter_context(_inserted(text_encoder.model, layers))
            stack.enter_context(_inserted(self._backbone.unet, self.unet))
            yield

    @torch.no_grad()
    def norms(self) -> list[float]:
        """Return each text encoder's mean L2 norm of the placeholders' vectors."""
        return [float(torch.cat(list(table.values())).norm(dim=-1).mean()) for table in self.tokens]

    def freeze(self, norms: Sequence[float], thresholds: Sequence[float]) -> None:
        """Apply the norm rule: vectors whose mean norm has reached its threshold stay; each text encoder on its own."""
        for encoder, (norm, threshold) in enumerate(zip(norms, thresholds, strict=True)):
            if not self.frozen[encoder] and norm >= threshold:
                self.frozen[encoder] = True
                for vectors in self.tokens[encoder].values():
                    vectors.requires_grad_(False)
                    vectors.grad = None

    def state(self) -> dict[str, object]:
        """Return all tensors, for a checkpoint."""
        return {
            "parameters": [parameter.detach().cpu() for parameter in self._parameters()],
            "frozen": list(self.frozen),
        }

    def load_state(self, state: Mapping[str, object]) -> None:
        """Take over a checkpoint's tensors."""
        parameters, frozen = state["parameters"], state["frozen"]
        assert isinstance(parameters, list)
        assert isinstance(frozen, list)
        with torch.no_grad():
            for own, saved in zip(self._parameters(), parameters, strict=True):
                own.copy_(saved)
        self.frozen = list(frozen)
        for table, stays in zip(self.tokens, self.frozen, strict=True):
            for vectors in table.values():
                vectors.requires_grad_(not stays)

    def concept(self, name: str, metadata: Mapping[str, str]) -> Concept:
        """Return a copy as a finished concept, on the CPU."""
        return Concept(
            name=name,
            tokens=tuple({k: vectors.detach().clone().cpu() for k, vectors in table.items()} for table in self.tokens),
            text_encoders=tuple({k: pair.low_rank() for k, pair in layers.items()} for layers in self.text_encoders),
            unet={k: pair.low_rank() for k, pair in self.unet.items()},
            metadata=metadata,
        )

    def _parameters(self) -> list[nn.Parameter]:
        layers = [*self.text_encoders, self.unet]
        vectors = [parameter for table in self.tokens for parameter in table.values()]
        return vectors + [half for pairs in layers for pair in pairs.values() for half in pair]


def unet_layer_names(unet: nn.Module) -> list[str]:
    """List the linear layers of every attention layer of a U-Net."""
    return [f"{name}.{linear}" for name in attention_layers(unet) for linear in UNET_LINEARS]


def text_layer_names(encoder: nn.Module) -> list[str]:
    """List the linear layers of every attention layer of a text encoder, named as concept files name them."""
    return [
        name.removeprefix("text_model.")
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and ".self_attn." in name and name.rpartition(".")[2] in TEXT_LINEARS
    ]


def initial_vector(text_encoder: TextEncoder, initialiser: str, generator: torch.Generator) -> Tensor:
    """Return the vector that a placeholder starts from in every layer, ``(dim,)``.

    Args:
        text_encoder: the text encoder and its tokenizer.
        initialiser: ``<rand-SIGMA>``, or a word that is one token of the tokenizer.
        generator: decides random vectors.

    Raises:
        ConductorError: the initialiser is neither.
    """
    table = text_encoder.embedding.weight
    if random := re.fullmatch(r"<rand-([0-9.eE+-]+)>", initialiser):
        try:
            sigma = float(random[1])
        except ValueError:
            sigma = -1.0
        if not 0 <= sigma < 100:
            raise ConductorError(f"the initialiser '{initialiser}' has no usable number; write e.g. <rand-0.013>")
        return (torch.randn(table.shape[1], generator=generator) * sigma).to(table.device)
    ids = text_encoder.tokenizer(initialiser, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == text_encoder.tokenizer.unk_token_id:
        raise ConductorError(
            f"the initialiser '{initialiser}' is {len(ids)} tokens of this model's tokenizer; give a word that is "
            "exactly one (the subject's class, such as 'dog'), or <rand-0.013>"
        )
    vector: Tensor = table[ids[0]].detach().float().clone()
    return vector


def _pairs(model: nn.Module, names: Sequence[str], rank: int, generator: torch.Generator) -> dict[str, Pair]:
    modules = {name: model.get_submodule(find_layer(model, name)) for name in names}
    return {name: Pair.fresh(layer, rank, generator) for name, layer in modules.items() if isinstance(layer, nn.Linear)}


@contextmanager
def _inserted(model: nn.Module, layers: Mapping[str, Pair]) -> Iterator[None]:
    """Put trainable low-rank layers into ``model``; here, unlike in ``lora.pathwise``, they are the parameters."""
    found = {find_layer(model, name): pair for name, pair in layers.items()}
    put: list[tuple[nn.Module, str, nn.Linear]] = []
    try:
        for name, pair in found.items():
            parent, _, child = name.rpartition(".")
            owner, base = model.get_submodule(parent), model.get_submodule(name)
            assert isinstance(base, nn.Linear)
            setattr(owner, child, PathwiseLinear(base, pair.down, pair.up, [True], AllRows()))
            put.append((owner, child, base))
        yield
    finally:
        for owner, child, base in put:
            setattr(owner, child, base)

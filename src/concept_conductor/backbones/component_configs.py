"""What the configuration of each part of a model may say.

Fields that the method honours may vary within bounds; those that would change the arithmetic in a way that it does not
honour have one value. Names that change nothing are dropped, others are refused. Only what stands here reaches
diffusers and transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from concept_conductor.backbones import config_names
from concept_conductor.errors import ConductorError
from concept_conductor.io.documents import Document

NOT_GIVEN = "it wants an input that this method does not give"
UNUSUAL = "no Stable Diffusion 1.x, 2.x or XL model has it"


@dataclass(frozen=True)
class Only:
    """Let a field have one value alone; ``reason`` says what another would mean."""

    expected: Any
    reason: str = UNUSUAL

    def __call__(self, value: Any) -> Any:
        if type(value) is not type(self.expected) or value != self.expected:
            raise ValueError(f"{self.reason}; expected {_shown(self.expected)}, but it is {_shown(value)}")
        return value


@dataclass(frozen=True)
class Each:
    """Let a field have one value alone, or a list of it for each block."""

    expected: Any

    def __call__(self, value: Any) -> Any:
        for entry in value if isinstance(value, list) else [value]:
            Only(self.expected)(entry)
        return value


@dataclass(frozen=True)
class PerBlock:
    """Let a field be a whole number in a range, or a list of such numbers, one for each block."""

    least: int
    most: int

    def __call__(self, value: Any) -> Any:
        for entry in value if isinstance(value, list) else [value]:
            if type(entry) is not int or not self.least <= entry <= self.most:
                raise ValueError(
                    f"expected a whole number from {self.least} to {self.most}, or one for each block, but it is "
                    f"{_shown(value)}"
                )
        return value


def _shown(value: Any) -> str:
    """Return a value as JSON has it, shortened."""
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


Blocks = Field(min_length=1, max_length=6)
Activation = Literal["silu", "swish", "mish", "gelu", "relu"]
Channels = Annotated[int, Field(ge=1, le=2**13)]
Width = Annotated[int, Field(ge=1, le=2**16)]
Layers = Annotated[int, Field(ge=1, le=6)]
Heads = Annotated[int, Field(ge=1, le=1024)]
Epsilon = Annotated[float, Field(gt=0, le=0.1)]
Factor = Annotated[float, Field(gt=0, le=1000)]
Token = Annotated[int, Field(ge=0, lt=2**20)]
Beta = Annotated[float, Field(gt=0, lt=1)]
Absent = Annotated[Any, AfterValidator(Only(None))]
NoInput = Annotated[Any, AfterValidator(Only(None, NOT_GIVEN))]
Off = Annotated[Any, AfterValidator(Only(False))]


class ComponentConfig(BaseModel):
    """A part's configuration; what is not set has the default of diffusers' or transformers' own class.

    Attributes:
        class_name: of the part, as ``_class_name`` has it.
        ignored: further names that change nothing of what is computed.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    class_name: ClassVar[str] = ""
    ignored: ClassVar[frozenset[str]] = frozenset()

    def given(self) -> dict[str, Any]:
        """Return what the file sets."""
        return self.model_dump(exclude_unset=True)


Config = TypeVar("Config", bound=ComponentConfig)


class UNetConfig(ComponentConfig):
    """A U-Net of SD1.x, SD2.x or SDXL."""

    class_name = "UNet2DConditionModel"
    ignored = config_names.EMA

    sample_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    in_channels: Channels = 4
    out_channels: Channels = 4
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[int, Field(ge=0, le=1)] = 0
    down_block_types: Annotated[list[Literal["DownBlock2D", "CrossAttnDownBlock2D"]], Blocks] = [
        "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D",
    ]  # fmt: skip
    up_block_types: Annotated[list[Literal["UpBlock2D", "CrossAttnUpBlock2D"]], Blocks] = [
        "UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
    ]  # fmt: skip
    block_out_channels: Annotated[list[Channels], Blocks] = [320, 640, 1280, 1280]
    layers_per_block: Layers = 2
    transformer_layers_per_block: Annotated[Any, AfterValidator(PerBlock(0, 16))] = 1
    downsample_padding: Annotated[int, Field(ge=0, le=1)] = 1
    mid_block_scale_factor: Factor = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0
    act_fn: Activation = "silu"
    norm_num_groups: Channels = 32
    norm_eps: Epsilon = 1e-5
    cross_attention_dim: Channels = 1280
    attention_head_dim: Annotated[Any, AfterValidator(PerBlock(1, 1024))] = 8
    use_linear_projection: bool = False
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: Channels | None = None
    projection_class_embeddings_input_dim: Width | None = None
    addition_embed_type_num_heads: Heads = 64
    upcast_attention: bool | None = False
    conv_in_kernel: Literal[1, 3, 5, 7] = 3
    conv_out_kernel: Literal[1, 3, 5, 7] = 3

    time_cond_proj_dim: Annotated[
        Any, AfterValidator(Only(None, "a distilled U-Net (LCM), which wants the guidance scale as an input"))
    ] = None
    class_embed_type: NoInput = None
    num_class_embeds: NoInput = None
    class_embeddings_concat: Off = False
    encoder_hid_dim: NoInput = None
    encoder_hid_dim_type: NoInput = None
    attention_type: Annotated[Any, AfterValidator(Only("default", NOT_GIVEN))] = "default"
    center_input_sample: Off = False
    mid_block_type: Annotated[Any, AfterValidator(Only("UNetMidBlock2DCrossAttn"))] = "UNetMidBlock2DCrossAttn"
    only_cross_attention: Annotated[Any, AfterValidator(Each(False))] = False
    mid_block_only_cross_attention: Literal[False] | None = None
    dual_cross_attention: Off = False
    cross_attention_norm: Absent = None
    num_attention_heads: Absent = None
    reverse_transformer_layers_per_block: Absent = None
    resnet_time_scale_shift: Annotated[Any, AfterValidator(Only("default"))] = "default"
    resnet_skip_time_act: Off = False
    resnet_out_scale_factor: Annotated[float, AfterValidator(Only(1.0))] = 1.0
    time_embedding_type: Annotated[Any, AfterValidator(Only("positional"))] = "positional"
    time_embedding_dim: Absent = None
    time_embedding_act_fn: Absent = None
    timestep_post_act: Absent = None

    @model_validator(mode="after")
    def _fits_together(self) -> UNetConfig:
        blocks = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types", "transformer_layers_per_block", "attention_head_dim"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) != blocks:
                raise ValueError(f"'{name}' has {len(value)} entries for {blocks} blocks; expected one for each")
        check_groups(self.block_out_channels, self.norm_num_groups)
        if self.out_channels != self.in_channels:
            raise ValueError(
                f"it takes {self.in_channels} channels and gives {self.out_channels} (an inpainting model?); expected "
                "a text-to-image model, whose channels are as many"
            )
        needs = (self.addition_time_embed_dim, self.projection_class_embeddings_input_dim)
        if self.addition_embed_type is not None and None in needs:
            raise ValueError(
                "'addition_embed_type' needs 'addition_time_embed_dim' and 'projection_class_embeddings_input_dim'"
            )
        return self


class VaeConfig(ComponentConfig):
    """A variational autoencoder of SD1.x, SD2.x or SDXL."""

    class_name = "AutoencoderKL"
    ignored = config_names.EMA

    in_channels: Annotated[int, AfterValidator(Only(3))] = 3
    out_channels: Annotated[int, AfterValidator(Only(3))] = 3
    latent_channels: Channels = 4
    down_block_types: Annotated[list[Literal["DownEncoderBlock2D"]], Blocks] = ["DownEncoderBlock2D"]
    up_block_types: Annotated[list[Literal["UpDecoderBlock2D"]], Blocks] = ["UpDecoderBlock2D"]
    block_out_channels: Annotated[list[Channels], Blocks] = [64]
    layers_per_block: Layers = 1
    act_fn: Activation = "silu"
    norm_num_groups: Channels = 32
    sample_size: Annotated[int, Field(ge=1, le=2**14)] = 32
    scaling_factor: Factor = 0.18215
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    shift_factor: Absent = None
    latents_mean: Absent = None
    latents_std: Absent = None

    @model_validator(mode="after")
    def _fits_together(self) -> VaeConfig:
        blocks = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types"):
            if len(getattr(self, name)) != blocks:
                raise ValueError(f"'{name}' has {len(getattr(self, name))} entries for {blocks} blocks")
        check_groups(self.block_out_channels, self.norm_num_groups)
        return self


class TextEncoderConfig(ComponentConfig):
    """A CLIP text encoder."""

    ignored = config_names.CLIP

    vocab_size: Annotated[int, Field(ge=1, le=2**20)] = 49408
    hidden_size: Channels = 512
    intermediate_size: Width = 2048
    projection_dim: Channels = 512
    num_hidden_layers: Annotated[int, Field(ge=1, le=64)] = 12
    num_attention_heads: Heads = 8
    max_position_embeddings: Annotated[int, Field(ge=3, le=1024)] = 77
    hidden_act: Literal["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"] = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5
    pad_token_id: Token | None = 1
    bos_token_id: Token | None = 49406
    eos_token_id: Token | None = 49407
    pruned_heads: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> TextEncoderConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"'hidden_size' {self.hidden_size} is no multiple of 'num_attention_heads' {self.num_attention_heads}"
            )
        return self

    def given(self) -> dict[str, Any]:
        """Return what the file sets of the network."""
        return self.model_dump(exclude_unset=True, exclude={"pruned_heads"})


def check_groups(channels: list[int], groups: int) -> None:
    """Raise ValueError unless the channels of every block can be normalised in so many groups."""
    for count in channels:
        if count % groups:
            raise ValueError(f"'block_out_channels' has {count}, which is no multiple of 'norm_num_groups' {groups}")


def check_config(kind: type[ComponentConfig], data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the fields of a part's configuration that its network is made from.

    Args:
        kind: of part.
        data: what the file holds.
        source: the file, for messages.

    Raises:
        ConductorError: one sentence that names the file and the field.
    """
    check_class(data, (kind.class_name,) if kind.class_name else (), source)
    return validated(kind, known_fields(kind, data, source), source).given()


def check_class(data: Mapping[str, Any], known: tuple[str, ...], source: str) -> None:
    """Refuse a configuration that names another class than the ``known`` ones; one that names none is taken.

    Raises:
        ConductorError: it does.
    """
    name = data.get("_class_name")
    if known and name is not None and name not in known:
        raise ConductorError(f"'{source}' is of the class {name!r:.60}; expected {' or '.join(known)}")


def known_fields(kind: type[ComponentConfig], data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the fields of a configuration that ``kind`` has, without those that change nothing.

    Raises:
        ConductorError: it has others.
    """
    fields = {}
    for name, value in data.items():
        plain = name.lstrip("_").removesuffix("_internal").removesuffix("_autoset")
        if plain in config_names.REFUSED:
            if value is not None and not (plain == "attn_implementation" and value in config_names.OUR_ATTENTION):
                raise ConductorError(f"'{source}': '{name:.60}' {config_names.REFUSED[plain]}")
        elif name in kind.model_fields:
            fields[name] = [*value] if isinstance(value, tuple) else value
        elif name not in kind.ignored and name not in config_names.ANYWHERE:
            raise ConductorError(
                f"'{source}': '{name:.60}' is not known here and might change what the model computes; expected the "
                "settings of a Stable Diffusion 1.x, 2.x or XL model"
            )
    return fields


def validated(kind: type[Config], fields: dict[str, Any], source: str) -> Config:
    """Return ``fields`` as a ``kind``.

    Raises:
        ConductorError: they do not fit; the sentence is about the first that does not.
    """
    try:
        return Document(source, fields).validated(kind)
    except ConductorError as error:
        raise ConductorError(str(error).partition("\n")[0]) from error

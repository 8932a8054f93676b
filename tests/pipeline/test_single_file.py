"""Checkpoints in one file, in Stability's layout: every weight in its place, and what they say of themselves."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor

from concept_conductor import ConceptConductorPipeline, ConductorError, FamilyError
from concept_conductor.pipeline import loading
from tests.compare import ROUNDING, relative
from tests.pipeline.conftest import configuration, truncated, weights
from tests.stability import checkpoint

FAMILIES = ("sd15", "sd21", "sdxl")
UNET = "model.diffusion_model."


@pytest.mark.parametrize("container", ["safetensors", "ckpt"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_the_folder(
    models: dict[str, ConceptConductorPipeline], family: str, container: str, tmp_path: Path, offline: None
) -> None:
    """Every weight in its place, and the same latents, with the configuration from a folder on this machine."""
    pipe = models[family]
    state, file = checkpoint(pipe), tmp_path / f"model.{container}"
    assert len(state) > 500
    if container == "safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": state, "global_step": 1}, file)
    folder = configuration(pipe, tmp_path / "configuration")
    loaded = ConceptConductorPipeline.from_single_file(file, config=str(folder))
    loaded.set_progress_bar_config(disable=True)
    assert loaded.family.family == family
    assert loaded.scheduler.config.prediction_type == pipe.scheduler.config.prediction_type
    ours, theirs = weights(loaded), weights(pipe)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    run = {"prompt": "a dog", "latents": latents, "num_inference_steps": 2, "output_type": "latent"}
    assert relative(loaded(**run).images, pipe(**run).images) < ROUNDING


class Runs:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.mark}",))


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "code", "lora", "header"])
def test_bad_checkpoints_are_one_sentence(
    kind: str, models: dict[str, ConceptConductorPipeline], tmp_path: Path, offline: None
) -> None:
    file = tmp_path / ("model.ckpt" if kind == "code" else "model.safetensors")
    if kind == "truncated":
        save_file(checkpoint(models["sd15"]), file)
        truncated(tmp_path, file.name)
    elif kind == "lora":
        save_file({"lora_unet_conv_in.lora_down.weight": torch.ones(2, 4, 3, 3)}, file)
    elif kind == "code":
        torch.save({"state_dict": Runs(tmp_path / "mark")}, file)
    else:
        content = {"empty": b"", "text": b"<html>", "header": struct.pack("<Q", 100 << 30) + b'{"a":1}' + b" " * 99}
        file.write_bytes(content[kind])
    folder = configuration(models["sd15"], tmp_path / "configuration")
    with pytest.raises(ConductorError) as caught:
        ConceptConductorPipeline.from_single_file(file, config=str(folder))
    message = str(caught.value)
    assert str(file) in message and "\n" not in message
    assert ("is no checkpoint" if kind == "lora" else "could not be read") in message
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(("of", "config"), [("sd15", "sdxl"), ("sdxl", "sd15"), ("sd21", "sd15"), ("sd15", "a/b/c")])
def test_a_configuration_of_another_family(
    of: str, config: str, models: dict[str, ConceptConductorPipeline], tmp_path: Path, offline: None
) -> None:
    file = tmp_path / "model.safetensors"
    save_file(checkpoint(models[of]), file)
    folder = configuration(models[config], tmp_path / "configuration") if config in models else tmp_path / config
    with pytest.raises(ConductorError, match="in config=, where it is given, a diffusers folder of the same family"):
        ConceptConductorPipeline.from_single_file(file, config=str(folder))


@pytest.mark.parametrize("part", ["model.diffusion_model.input_blocks.1.0.in_layers.2.weight", "first_stage_model."])
def test_a_checkpoint_that_lacks_weights(
    part: str, models: dict[str, ConceptConductorPipeline], tmp_path: Path, offline: None
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({key: value for key, value in checkpoint(models["sd15"]).items() if not key.startswith(part)}, file)
    folder = configuration(models["sd15"], tmp_path / "configuration")
    with pytest.raises(ConductorError, match="expected all weights of a Stable Diffusion"):
        ConceptConductorPipeline.from_single_file(file, config=str(folder))


def test_without_the_hub_a_single_file_says_what_it_needs(
    models: dict[str, ConceptConductorPipeline], tmp_path: Path, offline: None
) -> None:
    save_file(checkpoint(models["sd15"]), tmp_path / "model.safetensors")
    with pytest.raises(ConductorError, match="give config=, a diffusers folder of the same family"):
        ConceptConductorPipeline.from_single_file(tmp_path / "model.safetensors")


@pytest.fixture(scope="session")
def folders(models: dict[str, ConceptConductorPipeline], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each family's configuration; what the hub would give."""
    root = tmp_path_factory.mktemp("configurations")
    return {family: configuration(pipe, root / family) for family, pipe in models.items()}


@pytest.fixture
def hub(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny configurations in the place of the published ones, which the hub has."""

    def snapshot(name: str, **_: Any) -> str:
        (family,) = (family for family, known in loading.CONFIGURED_AS.items() if known == name)
        return str(folders[family])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)


def written(
    pipe: ConceptConductorPipeline, file: Path, change: Callable[[dict[str, Tensor]], Any] | None = None, **facts: str
) -> Path:
    """A model's checkpoint, changed; ``facts`` go into its header."""
    state = checkpoint(pipe)
    if change is not None:
        change(state)
    save_file(state, file, metadata=facts)
    return file


def schedule(file: Path, **options: Any) -> Any:
    """The schedule that a checkpoint is sampled by."""
    return ConceptConductorPipeline.from_single_file(file, **options).backbone.scheduler


def told(file: Path, **options: Any) -> str:
    """The sentence with which a checkpoint is refused."""
    with pytest.raises(ConductorError) as caught:
        ConceptConductorPipeline.from_single_file(file, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_every_weight_lies_where_diffusers_finds_it(
    models: dict[str, ConceptConductorPipeline], folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    file = written(models[family], tmp_path / "model.safetensors")
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    theirs = weights(kind.from_single_file(str(file), config=str(folders[family]), torch_dtype=torch.float32))
    ours = weights(ConceptConductorPipeline.from_single_file(file, config=folders[family]))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


class TestPrediction:
    """What the U-Net predicts is taken from the file."""

    def test_markers_of_velocity_and_zero_terminal_snr(
        self, models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None
    ) -> None:
        empty = torch.tensor([])
        for family in ("sd15", "sdxl"):
            file = written(models[family], tmp_path / "v.safetensors", lambda state: state.update(v_pred=empty))
            plain = schedule(file)
            assert plain.config.prediction_type == "v_prediction" and plain.alphas_cumprod[-1] > 0.004
            both = written(
                models[family], tmp_path / "z.safetensors", lambda state: state.update(v_pred=empty, ztsnr=empty)
            )
            zero = schedule(both)
            assert zero.config.prediction_type == "v_prediction" and zero.alphas_cumprod[-1] == 0
            assert zero.config.timestep_spacing == "trailing"
            assert schedule(file, prediction_type="epsilon").config.prediction_type == "epsilon"
            assert "of which only velocity tells" in told(both, prediction_type="epsilon")

    def test_the_schedule_in_the_file(
        self, models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None
    ) -> None:
        pipe = models["sdxl"]
        zero = DDIMScheduler.from_config(
            pipe.scheduler.config, prediction_type="v_prediction", rescale_betas_zero_snr=True
        ).alphas_cumprod
        marked = {"v_pred": torch.tensor([]), "alphas_cumprod": zero.half()}
        found = schedule(written(pipe, tmp_path / "zero.safetensors", lambda state: state.update(marked)))
        assert found.alphas_cumprod[-1] == 0
        other = {"alphas_cumprod": zero**2}
        file = written(pipe, tmp_path / "other.safetensors", lambda state: state.update(other))
        assert "holds another noise schedule ('alphas_cumprod')" in told(file)

    @pytest.mark.parametrize("name", ["edm_vpred.sigma_max", "edm_mean"])
    def test_edm_is_refused(
        self, name: str, models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None
    ) -> None:
        file = written(
            models["sdxl"], tmp_path / "m.safetensors", lambda state: state.update({name: torch.tensor(120.0)})
        )
        with pytest.raises(FamilyError, match=rf"EDM's noise \('{name}'\)"):
            ConceptConductorPipeline.from_single_file(file)

    @pytest.mark.parametrize(
        ("facts", "expected"),
        [
            ({"modelspec.prediction_type": "v"}, "v_prediction"),
            ({"modelspec.predict_key": "epsilon"}, "epsilon"),
            ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
        ],
    )
    def test_headers_are_believed(
        self,
        facts: dict[str, str],
        expected: str,
        models: dict[str, ConceptConductorPipeline],
        tmp_path: Path,
        hub: None,
    ) -> None:
        file = written(models["sd21"], tmp_path / "m.safetensors", **facts)
        assert schedule(file).config.prediction_type == expected

    def test_headers_that_cannot_be_believed(
        self, models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None
    ) -> None:
        flow = written(models["sdxl"], tmp_path / "f.safetensors", **{"modelspec.prediction_type": "rectified_flow"})
        assert "predicts 'rectified_flow' by its header" in told(flow)
        both = written(
            models["sdxl"],
            tmp_path / "b.safetensors",
            lambda state: state.update(v_pred=torch.tensor([])),
            **{"modelspec.prediction_type": "epsilon"},
        )
        assert "marked as predicting velocity, but its header says noise" in told(both)

    def test_sd2_is_asked_for_where_nothing_tells(
        self, models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None
    ) -> None:
        """Both kinds have the same weights' names and shapes."""
        file = written(models["sd21"], tmp_path / "m.safetensors")
        assert "does not say what it predicts; give prediction_type='v_prediction'" in told(file)
        assert schedule(file, prediction_type="v_prediction").config.prediction_type == "v_prediction"
        base = ConceptConductorPipeline.from_single_file(file, prediction_type="epsilon")
        assert base.backbone.scheduler.config.prediction_type == "epsilon"
        assert base.unet.config.sample_size == 64  # 512 px
        pickled = tmp_path / "base.ckpt"
        torch.save({"state_dict": checkpoint(models["sd21"]), "global_step": 875_000}, pickled)
        assert schedule(pickled).config.prediction_type == "epsilon"


class TestEightBits:
    """Weights in eight bits mean what their scales make of them."""

    @pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
    def test_scales_are_multiplied_with(
        self, name: str, models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None
    ) -> None:
        truth = models["sdxl"].unet.state_dict()

        def scale(state: dict[str, Tensor]) -> None:
            for key in [key for key in state if key.startswith(UNET) and key.endswith(".weight")]:
                if state[key].ndim == 2:
                    factor = state[key].abs().max() / 448
                    state[key.removesuffix("weight") + name] = factor.reshape(1 if name == "weight_scale" else ())
                    state[key.removesuffix("weight") + "scale_input"] = torch.ones(())
                    state[key] = (state[key] / factor).to(torch.float8_e4m3fn)
            state[UNET + "scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)

        file = written(models["sdxl"], tmp_path / "m.safetensors", scale)
        found = ConceptConductorPipeline.from_single_file(file).unet.state_dict()
        for key, value in truth.items():  # eight bits keep three bits of each number
            assert (found[key] - value).norm() <= 0.04 * value.norm(), key

    def test_plain_ones_are_widened(
        self, models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None
    ) -> None:
        name = UNET + "time_embed.0.weight"
        file = written(
            models["sd15"],
            tmp_path / "m.safetensors",
            lambda state: state.update({name: state[name].to(torch.float8_e5m2)}),
        )
        found = ConceptConductorPipeline.from_single_file(file).unet.time_embedding.linear_1.weight
        assert torch.equal(found, models["sd15"].unet.time_embedding.linear_1.weight.to(torch.float8_e5m2).float())

    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("time_embed.0.scale_weight", torch.ones(64), "expected one number beside each weight"),
            ("time_embed.7.scale_weight", torch.ones(()), "expected one number beside each weight"),
            ("time_embed.0.weight_scale", torch.tensor(torch.nan), "as nan; it is damaged"),
            ("time_embed.0.weight_scale", torch.tensor(-1.0), "as -1.0; it is damaged"),
            ("time_embed.0.comfy_quant", torch.zeros(3, dtype=torch.uint8), "is quantized"),
            ("time_embed.0.scale", torch.ones(()), "beside a Stable Diffusion model's weights"),
        ],
    )
    def test_other_scales_are_refused(
        self,
        name: str,
        value: Tensor,
        sentence: str,
        models: dict[str, ConceptConductorPipeline],
        tmp_path: Path,
        hub: None,
    ) -> None:
        file = written(models["sd15"], tmp_path / "m.safetensors", lambda state: state.update({UNET + name: value}))
        assert sentence in told(file)

    def test_whole_numbers_are_no_weights(
        self, models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None
    ) -> None:
        name = UNET + "time_embed.0.weight"
        file = written(
            models["sd15"], tmp_path / "m.safetensors", lambda state: state.update({name: state[name].char()})
        )
        assert "has 'time_embedding.linear_1.weight' as numbers that are no weights" in told(file)


@pytest.mark.parametrize(
    "name", ["model.diffusion_model.lora.up", "something", "first_stage_model.quantize.embedding.weight", "control_x"]
)
def test_unexpected_tensors_are_an_error(
    name: str, models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None
) -> None:
    file = written(models["sd15"], tmp_path / "m.safetensors", lambda state: state.update({name: torch.zeros(2)}))
    assert f"holds the weight '{name}' beside a Stable Diffusion model's weights" in told(file)


def test_what_checkpoints_have_and_nobody_reads(
    models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None
) -> None:
    names = (
        "model_ema.diffusion_modelinput_blocks00weight", "model_ema.decay", "betas", "sqrt_recipm1_alphas_cumprod",
        "posterior_mean_coef1", "logvar", "cond_stage_model.logit_scale", "first_stage_model.loss.logvar",
        "cond_stage_model.transformer.text_projection.weight",
    )  # fmt: skip
    more = {name: torch.zeros(2) for name in names}
    ConceptConductorPipeline.from_single_file(
        written(models["sd15"], tmp_path / "m.safetensors", lambda state: state.update(more))
    )
    layer = "cond_stage_model.model.transformer.resblocks.1.ln_1.bias"  # beyond those that the encoder has
    file = written(models["sd21"], tmp_path / "n.safetensors", lambda state: state.update({layer: torch.zeros(2)}))
    ConceptConductorPipeline.from_single_file(file, prediction_type="v_prediction")


def test_the_text_encoder_may_be_spelt_as_of_old(
    models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None
) -> None:
    def old(state: dict[str, Tensor]) -> None:
        for name in list(state):
            if ".text_model." in name:
                state[name.replace("text_model.", "")] = state.pop(name)

    found = weights(ConceptConductorPipeline.from_single_file(written(models["sd15"], tmp_path / "m.safetensors", old)))
    assert all(torch.equal(found[name], value) for name, value in weights(models["sd15"]).items())


@pytest.mark.parametrize(
    ("key", "shape", "kind"),
    [
        ("conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias", (1,), "xl_refiner"),
        ("model.diffusion_model.input_blocks.0.0.weight", (8, 9, 3, 3), "inpainting"),
        ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", (1,), "flux"),
        ("control_model.time_embed.0.weight", (1,), "controlnet"),
    ],
)
def test_models_of_other_kinds(key: str, shape: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    save_file({key: torch.zeros(shape)}, tmp_path / "m.safetensors")
    with pytest.raises(FamilyError, match=f"of the kind '{kind}"):
        ConceptConductorPipeline.from_single_file(tmp_path / "m.safetensors")


def test_loading_says_nothing(
    models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None, capfd: pytest.CaptureFixture[str]
) -> None:
    ConceptConductorPipeline.from_single_file(
        written(models["sd15"], tmp_path / "m.safetensors"), torch_dtype=torch.float16
    )
    assert capfd.readouterr() == ("", "")


def test_doctor_says_the_same(
    models: dict[str, ConceptConductorPipeline], tmp_path: Path, hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(models["sd21"], tmp_path / "m.safetensors")
    with pytest.raises(ConductorError) as caught:
        loading.describe(file, torch.float16)
    assert str(caught.value) == told(file)
    backbone = loading.describe(file, torch.float16, "v_prediction")
    assert backbone.family == "sd21" and backbone.unet.config.cross_attention_dim == 1024
    odd = written(models["sd15"], tmp_path / "odd.safetensors", lambda state: state.update(odd=torch.zeros(1)))
    with pytest.raises(ConductorError) as caught:
        loading.describe(odd, torch.float16)
    assert str(caught.value) == told(odd)

    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)  # then it is as its family was published
    assert loading.describe(odd, torch.float16).unet.config.cross_attention_dim == 768

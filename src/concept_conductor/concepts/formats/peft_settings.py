"""Which of PEFT's settings may stand beside weights that are read as plain low rank, and what the others do.

Three tables hold every field of PEFT's LoraConfig, LoHaConfig and LoKrConfig: those that are read, those that change
nothing of what trained weights mean, and those that do unless they have a certain value. A field in none of them is
refused; tests/concepts/formats/test_peft_settings.py fails as soon as the installed PEFT has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Fields that decide which layers are changed, and how strongly (:class:`AdapterConfig`).
READ = frozenset(
    {
        *("peft_type", "r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    }
)
#: Fields that change nothing of what the weights mean, whatever they say.
HARMLESS = frozenset(
    {
        # where the adapter comes from; nothing of it is followed
        *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        # for the training alone
        *("inference_mode", "lora_dropout", "rank_dropout", "rank_dropout_scale", "module_dropout", "merge_weights"),
        # how LoHa and LoKr are laid out, which their tensors show themselves
        *("use_effective_conv2d", "decompose_both", "decompose_factor", "init_weights"),
        # for one of the initialisations, which init_lora_weights names
        *("eva_config", "corda_config", "lora_ga_config", "loftq_config"),
        # for a setting below that is switched off
        *("qalora_group_size", "megatron_core"),
        "runtime_config",
    }
)
#: Field -> the values with which it changes nothing, and what it does with others.
HARMLESS_AS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "bias": (("none",), "trains biases of the model"),
    "lora_bias": ((False,), "adds trained biases"),
    "modules_to_save": (([],), "replaces whole layers of the model"),
    "trainable_token_indices": (([], {}), "replaces rows of the model's token embeddings"),
    "target_parameters": (([],), "changes parameters that are no layers"),
    "fan_in_fan_out": ((False,), "means layers whose weights are transposed"),
    "layer_replication": (([],), "repeats layers of the model"),
    "ensure_weight_tying": ((False,), "ties layers of the model to each other"),
    "use_dora": ((False,), "is DoRA, whose strength depends on the model's weights"),
    "use_qalora": ((False,), "is QA-LoRA, which pools what a layer takes in"),
    "use_bdlora": ((False,), "is BD-LoRA, whose factors are of blocks"),
    "kasa_config": ((), "is KaSA, which cuts singular values off the model's weights"),
    "velora_config": ((), "is VeLoRA, which compresses what a layer takes in"),
    "monteclora_config": ((), "is MonteCLoRA, which draws weights at random"),
    "arrow_config": ((), "is Arrow, which chooses among several adapters"),
    "alora_invocation_tokens": (([],), "is aLoRA, which acts on a part of the text only"),
    "megatron_config": ((), "splits layers among processors"),
    "enable_lora": (([],), "changes parts of fused layers only"),
}
INITIALISATION = "init_lora_weights"
#: How weights may have been initialised without a change of the model's own.
HARMLESS_INITIALISATIONS = ("gaussian", "orthogonal", "eva", "mica")
#: How the name of an initialisation starts that takes out of the model's own weights what the adapter begins with.
CHANGED_BASE = {
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "lora_ga": "LoRA-GA",
    "loftq": "LoftQ",
}


def harm(field: str, value: Any) -> str | None:
    """Return what a setting does that low-rank weights alone do not show; None where it does nothing.

    Args:
        field: the setting's name.
        value: what a file says of it; None says nothing.
    """
    if value is None or field in READ or field in HARMLESS:
        return None
    if field == INITIALISATION:
        return _harm_of_initialisation(value)
    if field not in HARMLESS_AS:
        return "is not known to this program"
    values, harm = HARMLESS_AS[field]
    return None if value in values else harm


def _harm_of_initialisation(value: Any) -> str | None:
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in HARMLESS_INITIALISATIONS):
        return None
    changed = isinstance(value, str) and next((n for k, n in CHANGED_BASE.items() if value.lower().startswith(k)), None)
    if changed:
        return (
            f"is {changed}, which takes weights out of the model itself (PEFT makes a plain LoRA of it: "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...))"
        )
    return "is an initialisation that this program does not know"

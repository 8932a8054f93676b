"""The models that metrics measure with, bundled; nothing is loaded before it is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.metrics.embedders import (
    CLIP,
    DINOV2,
    ClipEmbedder,
    DinoEmbedder,
    Embedder,
    JudgeEmbedder,
)
from concept_conductor.evaluation.metrics.image_reward import FILE as WEIGHTS
from concept_conductor.evaluation.metrics.image_reward import IMAGE_REWARD, TOKENIZER, ImageReward
from concept_conductor.grounding.grounded_sam import GROUNDING_DINO, SAM, GroundedSam
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.io.pretrained import Checkpoint, best_device
from concept_conductor.mini import judge_file
from concept_conductor.mini.judge import Judge


@dataclass
class Instruments:
    """Makers of the models, by what they are for; each is made once.

    Attributes:
        make_grounder: finds what words name.
        make_clip: CLIP, for CLIP-I and CLIP-T.
        make_dino: DINOv2.
        make_image_reward: ImageReward.
        judge: the embedded model's judge; None for images of other models.
        check: raises where the instrument of a name cannot be had; loads nothing.
    """

    make_grounder: Callable[[], Grounder]
    make_clip: Callable[[], ClipEmbedder]
    make_dino: Callable[[], Embedder]
    make_image_reward: Callable[[], ImageReward]
    judge: Judge | None = None
    check: Callable[[str], None] = lambda name: None
    _identities: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def for_model(
        cls,
        model: str | Path,
        device: str | torch.device | None = None,
        *,
        checkpoints: Mapping[str, Checkpoint] | None = None,
        local_files_only: bool = False,
    ) -> Instruments:
        """Choose the instruments for images of ``model``.

        Args:
            model: "mini" or a folder that holds a judge: the judge grounds. Anything else: Grounded-SAM does.
            device: None for the GPU where there is one.
            checkpoints: others than the published ones, by "grounding_dino", "sam", "clip", "dino",
                "image_reward" (a folder with ``ImageReward.pt``, or a hub id) and "image_reward_tokenizer".
            local_files_only: never ask the hub.

        Raises:
            ConductorError: an unknown name of a checkpoint, or a device that is not there.
        """
        device = best_device(device)
        published = {
            "grounding_dino": GROUNDING_DINO,
            "sam": SAM,
            "clip": CLIP,
            "dino": DINOV2,
            "image_reward": IMAGE_REWARD,
            "image_reward_tokenizer": TOKENIZER,
        }
        if unknown := set(checkpoints or ()) - set(published):
            raise ConductorError(
                f"there is no measuring model '{min(unknown)}' to choose; expected {', '.join(published)}"
            )
        chosen = {**published, **(checkpoints or {})}
        file = judge_file(model)
        judge = Judge.load(file) if os.path.isfile(file) else None
        real = ("grounding_dino", "sam") if judge is None else ()
        models = {"grounder": real, "clip": ("clip",), "dino": ("dino",), "likeness": ("dino",) if real else ()}

        def check(name: str) -> None:
            for model in models.get(name, ()):
                chosen[model].check(local_files_only=local_files_only)
            if name == "image_reward":
                chosen[name].file(WEIGHTS, local_files_only=local_files_only)

        return cls(
            (lambda: JudgeGrounder(judge))
            if judge is not None
            else lambda: GroundedSam(
                device, chosen["grounding_dino"], chosen["sam"], local_files_only=local_files_only
            ),
            lambda: ClipEmbedder(chosen["clip"], device, local_files_only=local_files_only),
            lambda: DinoEmbedder(chosen["dino"], device, local_files_only=local_files_only),
            lambda: ImageReward(
                chosen["image_reward"], chosen["image_reward_tokenizer"], device, local_files_only=local_files_only
            ),
            judge,
            check,
        )

    @cached_property
    def grounder(self) -> Grounder:
        """Finds what words name."""
        return self.make_grounder()

    @cached_property
    def clip(self) -> ClipEmbedder:
        """CLIP."""
        return self.make_clip()

    @cached_property
    def dino(self) -> Embedder:
        """DINOv2."""
        return self.make_dino()

    @cached_property
    def judge_features(self) -> JudgeEmbedder:
        """The judge as an embedder."""
        return JudgeEmbedder(self.judge)

    @cached_property
    def likeness(self) -> Embedder:
        """What tells concepts apart for the leakage matrix: the judge where there is one, else DINOv2."""
        return self.judge_features if self.judge is not None else self.dino

    @cached_property
    def image_reward(self) -> ImageReward:
        """ImageReward."""
        return self.make_image_reward()

    def identity(self, name: str) -> str:
        """Return what tells the instrument ``name`` ("clip") from another in a cache; hashed once."""
        if name not in self._identities:
            self._identities[name] = getattr(self, name).identity()
        return self._identities[name]

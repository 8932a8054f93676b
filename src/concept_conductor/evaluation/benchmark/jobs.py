"""Jobs: a benchmark as a list of images, each with a key that tells its content from every other's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from concept_conductor._version import __version__
from concept_conductor.evaluation.benchmark.benchmark import Benchmark, SceneSpec
from concept_conductor.evaluation.benchmark.methods import METHODS, Method, find_methods
from concept_conductor.evaluation.benchmark.mini_images import layout_of
from concept_conductor.io.documents import FieldPath
from concept_conductor.recipes.files import locate_model, located_files, model_sha256, sha256_at
from concept_conductor.recipes.schema.recipe import Recipe

KEY_LENGTH = 32
#: What decides where and how an image is computed, but not what it shows.
NOT_IN_THE_KEY = {"seeds", "device", "paths_per_forward", "offload", "output"}


@dataclass(frozen=True)
class Group:
    """The jobs of one method and scene, which differ in their seeds only.

    Attributes:
        method: who makes the images.
        scene: what of.
        recipe: of the scene by the full method.
        paths: place in the recipe -> file.
        hashes: place -> SHA-256 of the file.
        model: SHA-256 of the model's files, or the hub id where they are not here.
    """

    method: Method
    scene: SceneSpec
    recipe: Recipe
    paths: Mapping[FieldPath, Path]
    hashes: Mapping[FieldPath, str]
    model: str

    @cached_property
    def content(self) -> str:
        """All that makes the images, but for the seed, as JSON."""
        recipe = self.recipe.shareable().model_dump(mode="json", exclude=NOT_IN_THE_KEY | {"model"})
        recipe["inversion"].pop("cache")
        for place, digest in self.hashes.items():
            _put(recipe, place, digest)
        parts = {
            "concept-conductor": __version__,
            "model": self.model,
            "method": self.method.name,
            "changes": repr(sorted(self.method.changes.items())),
            "recipe": recipe,
        }
        return json.dumps(parts, sort_keys=True, default=str)


@dataclass(frozen=True)
class Job:
    """One image.

    Attributes:
        group: its method and scene.
        seed: of its noise.
        key: names its results; equal only for images that would be equal.
    """

    group: Group
    seed: int
    key: str = field(init=False)

    def __post_init__(self) -> None:
        digest = sha256(f"{self.group.content}\0{self.seed}".encode()).hexdigest()
        object.__setattr__(self, "key", digest[:KEY_LENGTH])

    @property
    def title(self) -> str:
        """For messages and progress."""
        return f"{self.group.method.title}: {self.group.scene.combination}, {self.group.scene.prompt}, seed {self.seed}"


def chosen_methods(benchmark: Benchmark, names: Sequence[str] | None = None) -> list[Method]:
    """Return the methods of ``names``, else the benchmark's, else all.

    Raises:
        ConductorError: there is no such method.
    """
    return find_methods(list(names or benchmark.methods or METHODS))


def plan(benchmark: Benchmark, methods: Sequence[Method], folder: Path) -> list[Job]:
    """List every job of a benchmark, scene by scene, so that what scenes share is loaded once.

    Args:
        benchmark: whose files were checked.
        methods: who makes images.
        folder: for layouts that have to be drawn.

    Raises:
        ConductorError: a file is missing or cannot be read.
    """
    hashes: dict[Path, str] = {}
    model = locate_model(benchmark.model, benchmark.folder)
    identity = model_sha256(model) if isinstance(model, Path) else model
    return list(_jobs(benchmark, methods, folder, hashes, identity))


def _jobs(
    benchmark: Benchmark, methods: Sequence[Method], folder: Path, known: dict[Path, str], model: str
) -> Iterator[Job]:
    for scene in benchmark.scenes():
        recipe = benchmark.recipe(scene, layout_of(benchmark, scene, folder))
        paths = {place: Path(path) for place, path in located_files(recipe).items()}
        for place, path in paths.items():
            if path not in known:
                known[path] = sha256_at(place, path)
        hashes = {place: known[path] for place, path in paths.items()}
        for method in methods:
            group = Group(method, scene, recipe, paths, hashes, model)
            for seed in benchmark.seeds:
                yield Job(group, seed)


def _put(data: Any, place: FieldPath, value: str) -> None:
    """Set what stands at ``place`` of nested dicts and lists."""
    for part in place[:-1]:
        data = data[part]
    data[place[-1]] = value

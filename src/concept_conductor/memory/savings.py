"""Which settings make a run fit a card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from concept_conductor.memory.estimate import DryRun, MemoryOptions

GIB = 2**30
#: GiB of the cards that people have.
CARDS = (6, 8, 10, 12, 16, 24, 32)
#: A setting that saves a smaller share of the memory is not worth its time.
WORTH_IT = 0.01


class Option(BaseModel):
    """One way to run a recipe.

    Attributes:
        settings: what to put into the recipe beyond what is there, as its fields are written.
        peak: estimated bytes of GPU memory.
        card: GiB of the smallest common card that holds it; None for none.
    """

    model_config = ConfigDict(frozen=True)

    settings: tuple[str, ...]
    peak: int
    card: int | None


def options(dry_run: DryRun, own: MemoryOptions) -> list[Option]:
    """List the recipe as it is, and then with one more setting at a time, those that cost least time first.

    Settings that save next to nothing are left out.
    """
    kept, settings = own, dict[str, str]()
    found = [option(dry_run, own, settings)]
    for name, value, changed in cheaper_options(dry_run, own):
        chosen, more = replace(kept, **changed), {**settings, name: value}
        tried = option(dry_run, chosen, more)
        if tried.peak < (1 - WORTH_IT) * found[-1].peak:
            found.append(tried)
            kept, settings = chosen, more
    return found


def option(dry_run: DryRun, chosen: MemoryOptions, settings: Mapping[str, str]) -> Option:
    """What ``settings``, which amount to ``chosen``, need."""
    peak = dry_run.estimate(chosen).peak
    written = tuple(f"{name}: {value}" for name, value in settings.items())
    return Option(settings=written, peak=peak, card=smallest_card(peak))


def cheaper_options(dry_run: DryRun, own: MemoryOptions) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each setting that may save memory: its name and value in a recipe, and as a change of the options."""
    if not own.vae_tiling:
        yield "vae_tiling", "true", {"vae_tiling": True}
    if not own.gradient_checkpointing and dry_run.settings.alignment is not None:
        yield "alignment", "{gradient_checkpointing: true}", {"gradient_checkpointing": True}
    if not own.offload:
        yield "offload", "true", {"offload": True}
    paths = len(dry_run.updates)
    for count in range(min(own.paths_per_forward or paths, paths) - 1, 0, -1):
        yield "paths_per_forward", str(count), {"paths_per_forward": count}


def smallest_card(peak: int) -> int | None:
    """GiB of the smallest common card that holds ``peak`` bytes."""
    return next((card for card in CARDS if peak <= card * GIB), None)

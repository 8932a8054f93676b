"""What can be set to make a run fit a card."""

from __future__ import annotations

from concept_conductor.memory.estimate import MemoryOptions
from concept_conductor.memory.savings import CARDS, GIB, options, smallest_card
from tests.memory.conftest import dry_run


def test_options_save_more_and_more() -> None:
    found = options(dry_run(concepts=2, side=512), MemoryOptions())
    assert found[0].settings == () and len(found) > 2
    peaks = [option.peak for option in found]
    assert peaks == sorted(peaks, reverse=True)
    assert all(len({text.partition(":")[0] for text in o.settings}) == len(o.settings) for o in found)


def test_where_all_is_saved_there_is_nothing_more_to_say() -> None:
    already = options(dry_run(), MemoryOptions(1, True, True, True))
    assert [option.settings for option in already] == [()]


def test_the_smallest_card() -> None:
    assert smallest_card(7 * GIB) == 8 and smallest_card((CARDS[-1] + 1) * GIB) is None

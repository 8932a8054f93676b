"""The atlas: every drawing is there, and whose it is is said."""

import re

from concept_conductor.mini import FOLDER
from concept_conductor.mini.designs import CELL, HELD_OUT_STYLES, ICONS, LICENCES, PACKAGES, Atlas, notice
from concept_conductor.mini.presets import PRESETS


def test_every_cell_shows_a_drawing():
    atlas = Atlas.load()
    assert atlas.cells.shape == (len(atlas.designs), CELL, CELL, 4)
    covered = (atlas.cells[..., 3] > 127).mean((1, 2))
    assert covered.min() > 0.1
    assert len({design.name for design in atlas.designs}) == len(atlas.designs)


def test_every_design_is_attributed():
    atlas = Atlas.load()
    text = (FOLDER / "NOTICE").read_text()
    assert text == notice(list(atlas.designs))
    for design in atlas.designs:
        assert design.author and design.source.startswith("https://")
        assert LICENCES[design.licence] in text
        assert design.package == f"@iconify-json/{PACKAGES[design.style]}"
        assert re.search(rf"^  {design.class_name}: {re.escape(design.icon)}$", text, re.MULTILINE)


def test_pairs_of_held_out_designs_look_alike():
    held_out = {design.name for design in Atlas.load().designs if design.held_out}
    for name in ("dog", "cat", "robot", "backpack", "mug"):
        assert {f"{name}/{style}" for style in HELD_OUT_STYLES} <= held_out
    assert len(held_out) >= 8


def test_presets_use_classes_of_the_atlas():
    for preset in PRESETS.values():
        assert set(preset.classes) <= set(ICONS)

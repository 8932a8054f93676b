"""Scenes: captions say exactly what is there, masks are the visible objects, seeds decide everything."""

import pytest
import torch

from concept_conductor.mini.presets import CPU
from concept_conductor.mini.world import BACKDROPS, World, caption
from tests.compare import mask_iou


@pytest.fixture(scope="module")
def world() -> World:
    return CPU.world()


@pytest.fixture(scope="module")
def scenes(world):
    return world.sample(96, torch.Generator().manual_seed(0))


def test_images_and_masks_have_the_documented_form(world, scenes):
    assert scenes.images.shape == (96, 3, world.size, world.size)
    assert scenes.images.min() >= -1 and scenes.images.max() <= 1
    assert scenes.masks.dtype == torch.bool and scenes.masks.shape == (96, 3, world.size, world.size)


def test_objects_are_visible_and_apart(scenes):
    assert scenes.masks.sum(1).max() == 1  # a pixel shows one object
    present = scenes.designs >= 0
    area = scenes.masks.sum((2, 3))
    assert (area[~present] == 0).all()
    assert (area[present] > 100).all()
    assert set(present.sum(1).tolist()) == {1, 2, 3}


def test_objects_are_numbered_from_left_to_right(scenes):
    axis = torch.arange(scenes.masks.shape[-1])
    middles = (scenes.masks.sum(2) * axis).sum(-1) / scenes.masks.sum((2, 3)).clamp(min=1)
    for row, designs in zip(middles, scenes.designs):
        xs = row[designs >= 0]
        assert (xs.diff() > 0).all()


def test_captions_name_the_objects_in_order(world, scenes):
    for line, row, backdrop in zip(
        world.captions(scenes, torch.Generator().manual_seed(1)), scenes.designs.tolist(), scenes.backdrops.tolist()
    ):
        names = [world.atlas.designs[i].class_name for i in row if i >= 0]
        if len(names) == 2 and "two " in line:
            assert f"two {names[0]}s" in line and names[0] == names[1]
            continue
        positions = [word.strip(",.") for word in line.split()]
        assert [word for word in positions if word in CPU.classes] == names
        other = {phrase.phrase for phrase in BACKDROPS.values()} - {world.backdrops[backdrop].phrase}
        assert not any(phrase in line for phrase in other)


def test_held_out_designs_are_kept_from_the_base(world, scenes):
    assert not any(world.atlas.designs[i].held_out for i in scenes.designs[scenes.designs >= 0].tolist())
    only = CPU.world(held_out=True).sample(32, torch.Generator().manual_seed(0))
    assert all(world.atlas.designs[i].held_out for i in only.designs[only.designs >= 0].tolist())


def test_a_seed_gives_the_same_scenes(world, scenes):
    again = world.sample(96, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.images, scenes.images, rtol=0, atol=1e-4)
    assert mask_iou(again.masks, scenes.masks) > 0.999
    other = world.sample(96, torch.Generator().manual_seed(1))
    assert (other.images - scenes.images).abs().mean() > 0.1


def test_given_designs_are_drawn(world):
    designs = torch.tensor([[world.atlas.index("dog/noto"), world.atlas.index("cat/emojione")]])
    scene = world.draw(designs, torch.tensor([0]), torch.Generator().manual_seed(0))
    assert (scene.masks.sum((2, 3)) > 100).all()
    with pytest.raises(KeyError, match="no design 'dog/none'"):
        world.atlas.index("dog/none")


@pytest.mark.parametrize(
    ("classes", "backdrop", "text"),
    [
        (["dog"], None, "a dog"),
        (["elephant", "cat"], "beach", "an elephant and a cat on the beach"),
        (["dog", "dog"], "night", "two dogs at night"),
        (["dog", "cat", "mug"], "snow", "a dog, a cat and a mug in the snow"),
    ],
)
def test_caption(classes, backdrop, text):
    assert caption(classes, backdrop) == text


def test_caption_of_a_concept_variant():
    assert caption(["dog", "dog"], "grass", counted=False) == "a dog and a dog on the grass"

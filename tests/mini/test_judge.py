"""The judge: right on renderings it never saw, silent on images of nothing; each thing it says means what it says."""

import numpy as np
import pytest
import torch
from PIL import Image

from concept_conductor.mini import JUDGE_FILE
from concept_conductor.mini.judge import Judge, JudgeLoss, Network, examine, negatives, targets
from concept_conductor.mini.presets import CPU
from concept_conductor.mini.world import World


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


@pytest.fixture(scope="module")
def world() -> World:
    return CPU.world(None)


def as_image(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def test_marks_on_fresh_renderings(judge, world):
    marks = examine(judge, world, 120, seed=20_000)
    assert marks.class_right >= 0.97
    assert marks.design_right >= 0.95
    assert marks.mask_iou >= 0.85
    assert marks.strays <= 0.02
    assert marks.silent >= 0.97


def test_held_out_designs_are_told_apart(judge):
    marks = examine(judge, CPU.world(held_out=True), 50, seed=30_000)
    assert marks.design_right >= 0.95


@pytest.mark.parametrize("kind", ["white", "noise"])
def test_silent_on_nothing(judge, kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert judge.find(Image.fromarray(noise if kind == "noise" else np.full_like(noise, 255))) == []


def test_silent_on_backgrounds_and_blobs(judge, world):
    backdrops = torch.arange(64) % len(world.backdrops)
    empty = world.draw(torch.full((64, 3), -1), backdrops, torch.Generator().manual_seed(0))
    assert sum(map(bool, judge.find_all(empty.images))) == 0
    blobs = negatives(empty, torch.Generator().manual_seed(1))
    assert sum(map(bool, judge.find_all(blobs))) <= 2


def test_two_of_one_design_are_two_findings(judge, world):
    twins = torch.tensor([[world.atlas.index("dog/noto")] * 2, [world.atlas.index("mug/emojione")] * 2])
    scenes = world.draw(twins, torch.tensor([0, 2]), torch.Generator().manual_seed(0))
    for image, name, masks in zip(scenes.images, ("dog/noto", "mug/emojione"), scenes.masks):
        findings = judge.find(as_image(image))
        assert [finding.design for finding in findings] == [name, name]
        assert all(finding.class_name == name.split("/")[0] and 0.5 <= finding.score <= 1 for finding in findings)
        for finding, mask in zip(findings, masks.numpy()):
            assert (finding.mask & mask).sum() / (finding.mask | mask).sum() > 0.7
            left, top, right, bottom = finding.box
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1


def test_any_image_size(judge, world):
    scene = world.draw(
        torch.tensor([[world.atlas.index("robot/noto")]]), torch.tensor([1]), torch.Generator().manual_seed(0)
    )
    large = as_image(scene.images[0]).resize((200, 200))
    assert [finding.design for finding in judge.find(large)] == ["robot/noto"]


def test_small_enough_to_ship(judge):
    assert JUDGE_FILE.stat().st_size <= 6e6


def test_file_keeps_the_judge(judge, world, tmp_path):
    judge.save(tmp_path / "judge.safetensors")
    again = Judge.load(tmp_path / "judge.safetensors")
    images = world.sample(4, torch.Generator().manual_seed(0)).images
    assert again.designs == judge.designs and again.size == judge.size
    torch.testing.assert_close(again.network(images), judge.network(images), rtol=1e-4, atol=1e-4)


def test_targets_mark_the_visible_objects(world):
    scenes = world.sample(16, torch.Generator().manual_seed(0))
    loss = JudgeLoss(world, None, batch=1)
    design, heat, offsets, known = targets(scenes, loss.label, loss.unknown)
    assert (known == (design != loss.unknown)).all()
    assert design.shape == heat.shape == known.shape == offsets[:, 0].shape == (16, 32, 32)
    assert (heat.flatten(1).amax(1) > 0.7).all()
    axis = (torch.arange(32) + 0.5) / 32
    middles = offsets + torch.stack([axis.expand(32, -1), axis[:, None].expand(-1, 32)])
    one = scenes.designs[:, 1] < 0  # a single object: every cell points to the same place
    for middle, where in zip(middles[one], known[one]):
        assert middle[:, where].std(1).max() < 1e-5


def test_network_has_a_cell_for_two_pixels():
    assert Network(5)(torch.zeros(2, 3, 64, 64)).shape == (2, 9, 32, 32)

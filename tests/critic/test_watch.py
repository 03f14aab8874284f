"""The watch over the reward: what is read, when scores have diverged, what is exported."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from vlm3d_gs.config import CameraConfig, WatchConfig
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.critic.watch import RewardWatch, named_views

CAMERA = CameraConfig(resolution_px=constant(16))


class Script:
    """Returns scripted scores in turn; keeps the images' shapes."""

    def __init__(self, scores: Sequence[float], views: int) -> None:
        self.scores = [score for score in scores for _ in range(views)]
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: torch.Tensor, names: Sequence[str]) -> float:
        self.shapes.append(tuple(images.shape))
        assert list(names) == ["Front view", "Right side view", "Back view", "Left side view"]
        return self.scores.pop(0)


def watched(reward: Sequence[float], held_out: Sequence[float]) -> RewardWatch:
    watch = RewardWatch(
        Script(reward, 1), Script(held_out, 2), CAMERA, WatchConfig(margin=1.0), steps=100
    )
    for index in range(len(reward)):
        scene = ball(20 + index, 0.4, torch.Generator().manual_seed(index))
        watch(scene, round(100 * (index + 1) / len(reward)))
    return watch


FINAL = ball(5, 0.4, torch.Generator().manual_seed(9))


def test_rising_together_exports_the_end() -> None:
    watch = watched([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 1.5])
    assert not watch.diverged()
    scene, step, message = watch.choose(FINAL)
    assert (len(scene), step, message) == (5, 100, None)


def test_a_reward_that_rises_alone_exports_the_best_held_out_scene() -> None:
    watch = watched([0.0, 1.0, 2.0, 3.0], [9.0, 1.0, 4.0, 1.0])
    assert watch.diverged()
    scene, step, message = watch.choose(FINAL)
    assert (len(scene), step) == (22, 75), "readings of the first half are no candidates"
    assert message is not None
    assert "75" in message
    assert watch.summary() == {
        "steps": [25, 50, 75, 100],
        "reward": [0.0, 1.0, 2.0, 3.0],
        "held_out": [9.0, 1.0, 4.0, 1.0],
        "diverged": True,
    }


def test_a_scene_that_got_worse_by_both_has_not_been_hacked() -> None:
    assert not watched([0.0, 1.0, 4.0, 3.0], [0.0, 1.0, 4.0, 1.0]).diverged()


def test_the_judge_sees_other_views_at_another_resolution() -> None:
    watch = watched([0.0], [0.0])
    assert isinstance(watch.own, Script)
    assert isinstance(watch.judge, Script)
    assert watch.own.shapes == [(4, 16, 16, 3)]
    assert watch.judge.shapes == [(4, 32, 32, 3)] * 2
    own, other = named_views(CAMERA, 0.0, 0.5, 16), named_views(CAMERA, 12.0, 0.9, 16)
    assert not torch.isclose(own.viewmats, other.viewmats).all(dim=(1, 2)).any()
    assert other.azimuths_deg.tolist() == pytest.approx([12.0, 102.0, 192.0, 282.0])


def test_the_kept_scene_does_not_change_with_the_run() -> None:
    watch = RewardWatch(
        Script([0.0, 1.0], 1), Script([5.0, 0.0], 2), CAMERA, WatchConfig(margin=1.0), steps=100
    )
    scene = ball(10, 0.4, torch.Generator().manual_seed(1))
    before = scene.means.clone()
    watch(scene, 80)
    scene.means.add_(1.0)
    watch(scene, 100)
    assert torch.equal(watch.choose(scene)[0].means, before)


def test_a_resumed_watch_still_exports_the_best_scene_of_before() -> None:
    """Reward and held-out score diverge, and the run is interrupted between the best reading and the last."""
    before = watched([0.0, 1.0, 2.0], [9.0, 1.0, 4.0])
    settings = WatchConfig(margin=1.0)
    resumed = RewardWatch(Script([3.0], 1), Script([1.0], 2), CAMERA, settings, steps=100)
    resumed.load_state_tensors(before.state_tensors())
    assert resumed.readings == before.readings
    assert before.best is not None

    resumed(FINAL, 100)
    scene, step, message = resumed.choose(FINAL)
    assert resumed.diverged()
    assert message is not None
    assert step == before.best[1]
    assert torch.equal(scene.means, before.best[2].means)

    forgetful = RewardWatch(Script([3.0], 1), Script([1.0], 2), CAMERA, settings, steps=100)
    forgetful(FINAL, 100)
    assert torch.equal(forgetful.choose(FINAL)[0].means, FINAL.means)


def test_a_watch_without_readings_restores_to_one_without() -> None:
    resumed = watched([], [])
    resumed.load_state_tensors(watched([], []).state_tensors())
    assert resumed.readings == []
    assert resumed.best is None

"""The loop with a guidance that pulls to known pictures: it must get there, repeat itself, and resume exactly."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from vlm3d_gs.config import (
    CameraConfig,
    Config,
    DensifyConfig,
    DensifyMethod,
    RegularizerConfig,
    SceneConfig,
    TrainConfig,
)
from vlm3d_gs.config.presets import CONSTANT_RATES
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.core.seeding import generators
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views
from vlm3d_gs.optimize.optimizer import SceneOptimizer
from vlm3d_gs.optimize.state import TrainState, restore_state
from vlm3d_gs.optimize.step import combine_gradients
from vlm3d_gs.optimize.trainer import train
from vlm3d_gs.render import render
from vlm3d_gs.runs.checkpoint import load_checkpoint
from vlm3d_gs.runs.folder import RunFolder
from vlm3d_gs.runs.interrupt import stop_requests
from vlm3d_gs.runs.log import RunLog

STEPS = 30
METHODS = get_args(DensifyMethod)


class Picture:
    """Pulls every view towards renders of a target scene."""

    name = "picture"

    def __init__(self, target: Gaussians, stop_at: int | None = None) -> None:
        self.target, self.stop_at, self.seen = target, stop_at, 0
        self.cameras: list[Cameras] = []

    def is_due(self, progress: Progress) -> bool:
        return True

    def azimuth_range_deg(self, progress: Progress) -> tuple[float, float] | None:
        return None

    def state_tensors(self) -> dict[str, torch.Tensor]:
        return {"seen": torch.tensor(self.seen)}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.seen = int(tensors["seen"])

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        self.seen += 1
        if self.seen == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        self.cameras.append(views.cameras)
        expected = render(
            self.target, views.cameras, background=(0.0, 0.0, 0.0), backend="cpu"
        ).color
        difference = views.color - expected.detach()
        loss = float(difference.square().sum())
        return GuidanceOutput(2.0 * difference, {"loss": loss})


class Named(Picture):
    """Due at every third step, for views near the front only."""

    name = "named"

    def is_due(self, progress: Progress) -> bool:
        return progress.step % 3 == 0

    def azimuth_range_deg(self, progress: Progress) -> tuple[float, float] | None:
        return (-20.0, 20.0)


def config(out: Path, steps: int = STEPS, method: DensifyMethod = "gradient") -> Config:
    return Config(
        prompt="a red cube",
        out=out,
        scene=SceneConfig(n_init=60, max_gaussians=80),
        camera=CameraConfig(
            resolution_px=constant(24), background="black", distance=(3.4, 3.4), random_from=0.0
        ),
        regularizer=RegularizerConfig(
            roughness=constant(0.0), alpha_entropy=constant(0.0), coverage=constant(0.0)
        ),
        train=TrainConfig(steps=steps, checkpoint_every=0.5, preview_every=0.0),
        densify=DensifyConfig(method=method, start=0.3, stop=0.7, every=0.3),
        optim=CONSTANT_RATES,
    )


def target() -> Gaussians:
    start = ball(40, 0.4, torch.Generator().manual_seed(9), opacity=0.9, gray=0.2)
    sh = start.sh.clone()
    sh[:, 0, 0] = 1.5
    return Gaussians(**{**start.parameters(), "sh": sh})


def fresh(settings: Config) -> TrainState:
    streams = generators(
        settings.train.seed, ("cameras", "backgrounds", "densify", "noise", "targets")
    )
    first = ball(60, 0.5, torch.Generator().manual_seed(1), opacity=0.3)
    return TrainState(SceneOptimizer(first, settings.optim), streams)


def run(
    settings: Config, state: TrainState, *guidances: Picture, folder: RunFolder | None = None
) -> bool:
    settings.out.mkdir(exist_ok=True)
    with RunLog(settings.out, settings, quiet=True) as log, stop_requests() as stop_requested:
        return train(state, settings, guidances, log, folder=folder, stop_requested=stop_requested)


@pytest.mark.parametrize("method", METHODS)
def test_the_scene_approaches_the_pictures_and_grows(tmp_path: Path, method: DensifyMethod) -> None:
    settings = config(tmp_path / "run", method=method)
    state = fresh(settings)
    losses: list[float] = []

    class Recording(Picture):
        def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
            output = super().__call__(views, progress)
            losses.append(output.scalars["loss"])
            return output

    assert run(settings, state, Recording(target()))
    assert len(losses) == STEPS
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert 60 < len(state.optimizer.gaussians) <= 80


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_give_equal_bytes_and_a_resumed_run_too(
    tmp_path: Path, method: DensifyMethod
) -> None:
    settings = config(tmp_path / "run", method=method)
    whole, again, half = fresh(settings), fresh(settings), fresh(settings)
    run(settings, whole, Picture(target()))
    folder = RunFolder(tmp_path, tmp_path)
    run(settings, again, Picture(target(), stop_at=20), folder=folder)
    assert load_checkpoint(folder.checkpoint).step == 20
    resumed = Picture(target())
    restore_state(load_checkpoint(folder.checkpoint), half, [resumed])
    assert resumed.seen == 20
    run(settings, half, resumed)
    for name, value in whole.optimizer.gaussians.parameters().items():
        assert torch.equal(value, half.optimizer.gaussians.parameters()[name]), name


def test_densification_that_is_off_moves_nothing_by_either_method(tmp_path: Path) -> None:
    ends = []
    for method in METHODS:
        settings = config(tmp_path / method, steps=4, method=method)
        settings = replace(settings, densify=replace(settings.densify, enabled=False))
        state = fresh(settings)
        run(settings, state, Picture(target()))
        ends.append(state.optimizer.gaussians.parameters())
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


def test_an_interrupt_ends_the_run_after_a_whole_step(tmp_path: Path) -> None:
    settings = config(tmp_path / "run")
    state = fresh(settings)
    assert not run(settings, state, Picture(target(), stop_at=7))
    assert state.step == 7
    assert len((settings.out / "metrics.jsonl").read_text().splitlines()) == 7


def test_cameras_narrow_to_what_a_due_guidance_can_judge(tmp_path: Path) -> None:
    settings = config(tmp_path / "run", steps=9)
    anywhere, named = Picture(target()), Named(target())
    run(settings, fresh(settings), anywhere, named)
    assert len(named.cameras) == 3
    for cameras in named.cameras:
        off = (cameras.azimuths_deg + 45.0) % 90.0 - 45.0
        assert off.abs().max() <= 20.0
    free = torch.stack([cameras.azimuths_deg[0] for cameras in anywhere.cameras]) % 90.0
    assert ((free > 20.0) & (free < 70.0)).any()


def test_relative_guidance_is_scaled_to_the_others_norm(tmp_path: Path) -> None:
    state = fresh(config(tmp_path))
    first, second = torch.zeros(2, 2, 4, 4, 3)
    first[0], second[1] = 3.0, 1.0
    for weight in (1e-6, 1e6):  # the size of a relative loss must not matter
        state.reference_norm = 0.0
        relative = GuidanceOutput(weight * second, {}, relative_strength=0.5)
        gradient = combine_gradients(
            views_like(first), [GuidanceOutput(first, {}), relative], state
        )[0]
        torch.testing.assert_close(gradient[0, ..., :3], torch.full((4, 4, 3), 3.0))
        assert (gradient[..., 3] == 0.0).all()
        assert gradient[1].norm().item() == pytest.approx(0.5 * gradient[0].norm().item(), rel=1e-4)


def test_a_critic_alone_still_pulls(tmp_path: Path) -> None:
    state = fresh(config(tmp_path))
    ones = torch.ones(1, 2, 2, 3)
    only = GuidanceOutput(ones, {}, relative_strength=0.5)
    gradient = combine_gradients(views_like(ones), [only], state)[0]
    assert gradient.norm().item() == pytest.approx(0.5 * 12**0.5)


def views_like(color: torch.Tensor) -> Views:
    """Views whose cameras nobody asks about."""
    cameras = orbit([0.0] * len(color), 15.0, 3.0, 40.0, 4, 4)
    return Views(color, cameras, 1)


class Seldom(Picture):
    """A guidance that is asked at every fourth step; reused, or with four times the strength."""

    name = "seldom"

    def __init__(self, target: Gaussians, reused: bool, stop_at: int | None = None) -> None:
        super().__init__(target, stop_at=stop_at)
        self.reused = reused

    def is_due(self, progress: Progress) -> bool:
        return progress.step % 4 == 0

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        output = super().__call__(views, progress)
        factor = 1.0 if self.reused else 4.0
        gradient = factor * output.color_gradient
        return GuidanceOutput(gradient, output.scalars, reused=self.reused)


def test_a_reused_gradient_goes_on_until_the_next_question(tmp_path: Path) -> None:
    settings = replace(config(tmp_path / "run", steps=4), densify=DensifyConfig(enabled=False))
    state = fresh(settings)
    seen: list[dict[str, torch.Tensor]] = []
    step = state.optimizer.step

    def recording(fraction: float) -> None:
        seen.append(
            {
                name: leaf.grad.clone()
                for name, leaf in state.optimizer.leaves.items()
                if leaf.grad is not None
            }
        )
        step(fraction)

    state.optimizer.step = recording  # type: ignore[method-assign]
    run(settings, state, Seldom(target(), reused=True))
    assert len(seen) == 4
    assert seen[0]["means"].abs().max() > 0
    for later in seen[1:]:
        torch.testing.assert_close(later["means"], seen[0]["means"])


def test_reused_gradients_follow_densification_and_checkpoints(tmp_path: Path) -> None:
    settings = config(tmp_path / "run")
    whole, again, half = fresh(settings), fresh(settings), fresh(settings)
    run(settings, whole, Picture(target()), Seldom(target(), reused=True))
    folder = RunFolder(tmp_path, tmp_path)
    stopping = Picture(target(), stop_at=22)
    run(settings, again, stopping, Seldom(target(), reused=True), folder=folder)
    resumed = Picture(target())
    seldom = Seldom(target(), reused=True)
    restore_state(load_checkpoint(folder.checkpoint), half, [resumed, seldom])
    run(settings, half, resumed, seldom)
    for name, value in whole.optimizer.gaussians.parameters().items():
        assert torch.equal(value, half.optimizer.gaussians.parameters()[name]), name


def test_a_run_can_pause_and_is_watched_at_its_marks(tmp_path: Path) -> None:
    settings = config(tmp_path / "run")
    settings.out.mkdir()
    state, marks = fresh(settings), []

    class Marks:
        def __call__(self, gaussians: Gaussians, step: int) -> dict[str, float]:
            marks.append(step)
            return {"watch/held_out": float(len(gaussians))}

        def state_tensors(self) -> dict[str, torch.Tensor]:
            return {"marks": torch.tensor(marks)}

        def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
            marks.extend(tensors["marks"].tolist())

    folder = RunFolder(tmp_path, tmp_path)
    with RunLog(settings.out, settings, quiet=True) as log:
        done = train(
            state, settings, [Picture(target())], log, folder=folder, watch=Marks(), until=25
        )
    assert not done
    assert load_checkpoint(folder.checkpoint).step == state.step == 25
    every = settings.critic.watch.every * STEPS
    assert marks == [round(every * k) for k in range(1, int(25 / every) + 1)]
    assert (settings.out / "metrics.jsonl").read_text().count("watch/held_out") == len(marks)


def test_background_choices(tmp_path: Path) -> None:
    from vlm3d_gs.optimize.views import draw_backgrounds

    base = config(tmp_path).camera
    random = draw_backgrounds(
        replace(base, background="random", n_groups=50), 0.0, torch.Generator()
    )
    assert random.shape == (200, 3)
    assert torch.equal(random[0], random[3])
    assert random.unflatten(0, (50, 4))[:, 0].std(0).min() > 0.1
    white = draw_backgrounds(replace(base, background="white"), 0.0, torch.Generator())
    assert (white == 1).all()
    late = replace(base, background="random", random_from=0.3)
    assert (draw_backgrounds(late, 0.29, torch.Generator()) == 0.5).all()
    assert (draw_backgrounds(late, 0.3, torch.Generator()) != 0.5).any()

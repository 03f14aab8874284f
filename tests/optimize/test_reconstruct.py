"""Rounds of targets and fits: a source that draws a known scene must be followed, repeatably, and resumed exactly."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optimize.test_trainer import config, fresh, target
from vlm3d_gs.config import Config, ReconstructConfig
from vlm3d_gs.config.schedules import constant, linear
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views
from vlm3d_gs.optimize.reconstruct import Reconstruction, groups_of_fit
from vlm3d_gs.optimize.state import TrainState, restore_state
from vlm3d_gs.optimize.targets import Chain, PixelFit, Target, TargetPool, border_colors
from vlm3d_gs.optimize.trainer import train
from vlm3d_gs.optimize.views import draw_even_cameras
from vlm3d_gs.render import render
from vlm3d_gs.runs.checkpoint import load_checkpoint
from vlm3d_gs.runs.folder import RunFolder
from vlm3d_gs.runs.interrupt import stop_requests
from vlm3d_gs.runs.log import RunLog


class Painter:
    """Draws renders of a scene that it knows, before green."""

    name = "painter"

    def __init__(self, scene: Gaussians, stop_at: int | None = None) -> None:
        self.scene, self.stop_at = scene, stop_at
        self.drawn: list[tuple[Views, Chain, Progress]] = []

    def azimuth_range_deg(self, chain: Chain, progress: Progress) -> tuple[float, float] | None:
        return (-20.0, 20.0) if chain.candidates > 1 else None

    def draw(
        self, views: Views, chain: Chain, progress: Progress
    ) -> tuple[Tensor, Mapping[str, float]]:
        self.drawn.append((views, chain, progress))
        if len(self.drawn) == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        picture = render(self.scene, views.cameras, background=(0.0, 1.0, 0.0), backend="cpu").color
        return picture.detach(), {"noise_level": chain.noise_level}


def settings_of(out: Path, **values: object) -> Config:
    base = config(out)
    reconstruct = ReconstructConfig(until=1.0, fit_steps=constant(5), pool=3, n_groups=constant(2))
    return replace(base, reconstruct=replace(reconstruct, **values))  # type: ignore[arg-type]


def run(
    settings: Config,
    state: TrainState,
    painter: Painter,
    *guidances: Named,
    folder: RunFolder | None = None,
) -> bool:
    settings.out.mkdir(exist_ok=True)
    reconstruction = Reconstruction(painter, guidances)
    with RunLog(settings.out, settings, quiet=True) as log, stop_requests() as stop_requested:
        return train(
            state,
            settings,
            [],
            log,
            reconstruction=reconstruction,
            folder=folder,
            stop_requested=stop_requested,
        )


def difference(scene: Gaussians, other: Gaussians) -> float:
    cameras = orbit([10.0, 130.0, 250.0], 15.0, 3.4, 40.0, 24, 24)
    ours, theirs = (render(each, cameras, backend="cpu").color for each in (scene, other))
    return float((ours - theirs).square().mean())


def test_the_scene_becomes_what_is_drawn_without_its_background(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "run")
    state, painter = fresh(settings), Painter(target())
    before = difference(state.optimizer.gaussians.detach(), target())
    assert run(settings, state, painter)
    after = difference(state.optimizer.gaussians.detach(), target())
    assert after < 0.3 * before
    # 30 steps in rounds of 5, each of two groups of four views.
    assert [progress.step for _, _, progress in painter.drawn] == [0, 5, 10, 15, 20, 25]
    assert all(len(views.cameras) == 8 for views, _, _ in painter.drawn)


def test_chains_follow_their_schedules(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path / "run",
        noise_level=linear(1.0, 0.4),
        chain_steps=linear(4.0, 2.0),
        first_chain_steps=9,
    )
    painter = Painter(target())
    run(settings, fresh(settings), painter)
    chains = [chain for _, chain, _ in painter.drawn]
    assert [chain.noise_level for chain in chains] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert [chain.steps for chain in chains] == [9, 4, 3, 3, 3, 2]


@pytest.mark.parametrize("stop_at", [2, 4])
def test_equal_seeds_give_equal_bytes_and_a_resumed_run_too(tmp_path: Path, stop_at: int) -> None:
    settings = settings_of(tmp_path / "run", candidates=constant(2))
    whole, again, half = fresh(settings), fresh(settings), fresh(settings)
    run(settings, whole, Painter(target()))
    folder = RunFolder(tmp_path, tmp_path)
    run(settings, again, Painter(target(), stop_at=stop_at), folder=folder)

    # The signal came while a round began: its first fit was still done, and four are left.
    assert again.step == 5 * stop_at - 4
    assert (again.pool.fits, again.pool.fits_done) == (5, 1)
    restore_state(load_checkpoint(folder.checkpoint), half, [])
    run(settings, half, Painter(target()))
    for name, value in whole.optimizer.gaussians.parameters().items():
        assert torch.equal(value, half.optimizer.gaussians.parameters()[name]), name


class Steps:
    """Due at every step of distillation, which it enters into the log; likes nothing."""

    name = "steps"

    def is_due(self, progress: Progress) -> bool:
        return True

    def azimuth_range_deg(self, progress: Progress) -> None:
        return None

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        return GuidanceOutput(torch.zeros_like(views.color), {"loss": 0.0})

    def state_tensors(self) -> dict[str, Tensor]:
        return {}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        pass


class Asked(Steps):
    """Due at some steps only; keeps when it was asked."""

    name = "asked"

    def __init__(self, due: set[int]) -> None:
        self.due, self.seen = due, list[int]()

    def is_due(self, progress: Progress) -> bool:
        return progress.step in self.due

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        self.seen.append(progress.step)
        return super().__call__(views, progress)


class Named:
    """Due at every second step, for views near the front only; likes nothing."""

    name = "named"

    def __init__(self) -> None:
        self.seen: list[Views] = []

    def is_due(self, progress: Progress) -> bool:
        return progress.step % 2 == 0

    def azimuth_range_deg(self, progress: Progress) -> tuple[float, float] | None:
        return (-10.0, 10.0)

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        self.seen.append(views)
        return GuidanceOutput(torch.zeros_like(views.color), {}, relative_strength=0.1)

    def state_tensors(self) -> dict[str, Tensor]:
        return {}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        pass


def test_guidances_beside_the_fit_see_only_views_that_they_can_judge(tmp_path: Path) -> None:
    settings, named = settings_of(tmp_path / "run"), Named()
    run(settings, fresh(settings), Painter(target()), named)
    assert named.seen
    for views in named.seen:
        assert len(views.cameras) == 4, "the first group alone"
        off = (views.cameras.azimuths_deg + 45.0) % 90.0 - 45.0
        assert off.abs().max() <= 10.0


@pytest.mark.parametrize(
    ("between", "distilled"),
    [
        (0, range(15, 30)),
        (1, range(16, 30, 2)),
        (2, range(15, 30, 3)),
        (3, range(18, 30, 4)),
    ],
)
def test_after_its_share_the_run_distils_with_fits_between(
    tmp_path: Path, between: int, distilled: range
) -> None:
    settings = settings_of(tmp_path / "run", until=0.5, fits_between=between)
    settings.out.mkdir()
    state, painter, named = fresh(settings), Painter(target()), Asked(due={15, 17, 24})
    with RunLog(settings.out, settings, quiet=True) as log:
        train(state, settings, [Steps(), named], log, reconstruction=Reconstruction(painter))
    assert len(painter.drawn) == 3

    rows = [json.loads(line) for line in (settings.out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] - 1 for row in rows if "steps/loss" in row] == list(distilled)
    assert {row["step"] - 1 for row in rows[15:] if "fit/loss" in row} == {*range(15, 30)} - {
        *distilled
    }
    # Whoever is due at a fit is asked at the next step of distillation.
    asked = [next(step for step in distilled if step >= due) for due in (15, 17, 24)]
    assert named.seen == sorted(set(asked))


def test_the_pixel_fit_has_the_gradient_of_its_loss(generator: torch.Generator) -> None:
    color = torch.rand(2, 5, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    expected = torch.rand(2, 5, 5, 3, generator=generator, dtype=torch.float64)
    cameras = orbit([0.0, 90.0], 15.0, 3.0, 40.0, 5, 5)
    fit = PixelFit(
        Target(cameras, expected, torch.zeros(2, 3)), ReconstructConfig(squared=2.0, absolute=0.3)
    )
    output = fit(Views(color.detach(), cameras, 2), Progress(0, 1))
    loss = ((color - expected).square() + 0.3 * (color - expected).abs()).sum() / 2
    (gradient,) = torch.autograd.grad(loss, color)
    torch.testing.assert_close(output.color_gradient, gradient)
    assert float(output.scalars["loss"]) == pytest.approx(float(loss.detach()))


def test_the_pool_keeps_the_newest_and_fits_it_every_other_time(
    generator: torch.Generator,
) -> None:
    pool, cameras = TargetPool(), orbit([0.0], 15.0, 3.0, 40.0, 4, 4)
    for shade in range(5):
        color = torch.full((1, 4, 4, 3), float(shade))
        pool.begin_round(Target(cameras, color, torch.zeros(1, 3)), fits=40, size=3)
    taken = [pool.take(generator) for _ in range(40)]
    assert [turn for _, turn in taken] == [place // 2 for place in range(40)]
    shades = [float(each.color[0, 0, 0, 0]) for each, _ in taken]
    assert shades[::2] == [4.0] * 20
    assert set(shades[1::2]) == {2.0, 3.0, 4.0}
    assert pool.is_round_over

    again = TargetPool()
    again.load_state_tensors(pool.state_tensors(), torch.device("cpu"))
    assert again.is_round_over
    assert [float(each.color[0, 0, 0, 0]) for each in again.targets] == [2.0, 3.0, 4.0]
    assert torch.equal(again.targets[0].cameras.viewmats, cameras.viewmats)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (1, [[0], [1], [2], [0]]),
        (2, [[0, 1], [2, 0], [1, 2], [0, 1]]),
        (3, [[0, 1, 2]] * 4),
        (9, [[0, 1, 2]] * 4),
    ],
)
def test_the_groups_of_a_target_take_turns(
    tmp_path: Path, groups: int, expected: list[list[int]]
) -> None:
    settings = settings_of(tmp_path, fit_groups=constant(groups))
    cameras = orbit([30.0 * place for place in range(12)], 15.0, 3.0, 40.0, 4, 4)
    color = torch.arange(12.0)[:, None, None, None].expand(-1, 4, 4, 3)
    target = Target(cameras, color, torch.arange(12.0)[:, None].expand(-1, 3))
    turns = [groups_of_fit(settings, target, 0.0, turn) for turn in range(4)]
    assert turns == expected

    part = target.groups([1], 4)
    assert part.color[:, 0, 0, 0].tolist() == part.background[:, 0].tolist() == [4, 5, 6, 7]
    assert part.cameras.azimuths_deg.tolist() == pytest.approx([120.0, 150.0, 180.0, 210.0])


def test_with_one_group_a_fit_guidances_still_see_the_first(tmp_path: Path) -> None:
    settings, named = settings_of(tmp_path / "run", fit_groups=constant(1)), Named()
    state = fresh(settings)
    run(settings, state, Painter(target()), named)
    assert named.seen
    for views in named.seen:
        assert len(views.cameras) == 4
        off = (views.cameras.azimuths_deg + 45.0) % 90.0 - 45.0
        assert off.abs().max() <= 10.0


def test_border_colors_are_those_of_the_background_whatever_touches_the_edge() -> None:
    picture = torch.zeros(1, 8, 8, 3)
    picture[...] = torch.tensor([0.2, 0.4, 0.6])
    picture[:, 2:, 3:5] = 1.0  # an object that is cut off below
    torch.testing.assert_close(border_colors(picture), torch.tensor([[0.2, 0.4, 0.6]]))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_views_stand_evenly_around_the_object(tmp_path: Path, groups: int) -> None:
    camera = settings_of(tmp_path).camera
    draws = torch.Generator().manual_seed(4)
    cameras = draw_even_cameras(camera, groups, [None], Progress(0, 1), draws)
    assert len(cameras) == 4 * groups
    around = cameras.azimuths_deg.sort().values
    gaps = torch.cat([around[1:], around[:1] + 360.0]) - around
    torch.testing.assert_close(gaps, torch.full_like(gaps, 90.0 / groups), atol=1e-3, rtol=0.0)

    # What somebody must judge is the first group; the others keep their places between its views.
    judged = draw_even_cameras(
        camera, groups, [None, (-20.0, 20.0), (-5.0, 30.0)], Progress(0, 1), draws
    )
    offset = (float(judged.azimuths_deg[0]) + 45.0) % 90.0 - 45.0
    assert -5.001 <= offset <= 20.001
    around = judged.azimuths_deg.sort().values
    gaps = torch.cat([around[1:], around[:1] + 360.0]) - around
    torch.testing.assert_close(gaps, torch.full_like(gaps, 90.0 / groups), atol=1e-3, rtol=0.0)


def test_a_narrow_range_of_the_config_holds_for_all_groups(tmp_path: Path) -> None:
    camera = replace(settings_of(tmp_path).camera, azimuth_offset_deg=(10.0, 40.0))
    for seed in range(5):
        draws = torch.Generator().manual_seed(seed)
        cameras = draw_even_cameras(camera, 3, [None, (-20.0, 20.0)], Progress(0, 1), draws)
        offsets = cameras.azimuths_deg[::4]
        assert 10.0 <= float(offsets[0]) <= 20.0
        assert float(offsets.min()) >= 9.999
        assert float(offsets.max()) <= 40.001


def test_groups_of_one_fixed_azimuth_stand_there(tmp_path: Path) -> None:
    camera = replace(settings_of(tmp_path).camera, azimuth_offset_deg=(30.0, 30.0))
    cameras = draw_even_cameras(camera, 2, [None], Progress(0, 1), torch.Generator())
    assert cameras.azimuths_deg[::4].tolist() == pytest.approx([30.0, 30.0])


def test_ranges_that_nobody_can_serve_together_are_refused(tmp_path: Path) -> None:
    camera = settings_of(tmp_path).camera
    with pytest.raises(ConfigError, match="azimuth_offset_deg"):
        draw_even_cameras(camera, 1, [(0.0, 10.0), (20.0, 30.0)], Progress(0, 1), torch.Generator())

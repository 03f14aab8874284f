"""NaN and infinity from a network: the pictures concerned are left out, counted, said once; too many end the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlm3d_gs.assembly.start import STREAMS
from vlm3d_gs.config import Config, DensifyConfig, RegularizerConfig, TrainConfig
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.core.seeding import generators
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views, without_broken
from vlm3d_gs.optimize.optimizer import SceneOptimizer
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.optimize.trainer import MOST_BROKEN, train

CLEAN = {name: constant(0.0) for name in ("alpha_entropy", "coverage", "roughness")}


class Brighten:
    """Pulls every pixel up; in the steps of `broken` the second view's gradient is not finite."""

    name = "prior"

    def __init__(self, broken: range, value: float = torch.nan) -> None:
        self.broken, self.value = broken, value

    def is_due(self, progress: Progress) -> bool:
        return True

    def azimuth_range_deg(self, progress: Progress) -> None:
        return None

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        gradient = -torch.ones_like(views.color)
        if progress.step in self.broken:
            gradient[1, 3, 4, 0] = self.value
        return GuidanceOutput(gradient, {})

    def state_tensors(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        pass


class Messages:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.logged: list[dict[str, float]] = []

    def message(self, text: str) -> None:
        self.said.append(text)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.logged.append(values)

    def progress(self, *_: object) -> None:
        pass


def run(guidance: Brighten, steps: int) -> tuple[TrainState, Messages, bool]:
    base = Config(prompt="a red cube", train=TrainConfig(steps=steps, loop="distill"))
    config = replace(
        base,
        camera=replace(base.camera, resolution_px=constant(16)),
        densify=DensifyConfig(enabled=False),
        regularizer=RegularizerConfig(**CLEAN),
    )
    scene = ball(50, 0.5, torch.Generator().manual_seed(0))
    state = TrainState(SceneOptimizer(scene, config.optim), generators(0, STREAMS))
    log = Messages()
    finished = train(state, config, [guidance], log)  # type: ignore[arg-type]
    return state, log, finished


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_broken_picture_is_left_out_counted_and_said_once(value: float) -> None:
    state, log, finished = run(Brighten(range(2, 5), value), 8)
    assert finished
    assert state.counts["pictures left out"] == 3
    assert len(log.said) == 1
    assert "step 3" in log.said[0]
    assert [step.get("prior/left_out", 0.0) for step in log.logged] == [0, 0, 1, 1, 1, 0, 0, 0]
    assert all(bool(leaf.isfinite().all()) for leaf in state.optimizer.leaves.values())


def test_the_other_pictures_count_as_if_it_were_not_there() -> None:
    color = torch.randn(4, 5, 5, 3, generator=torch.Generator().manual_seed(1))
    alpha = torch.randn(4, 5, 5, 1, generator=torch.Generator().manual_seed(2))
    broken = alpha.clone()
    broken[2, 0, 0] = torch.nan
    cleaned, count = without_broken(GuidanceOutput(color, {}, broken))
    assert int(count) == 1
    keep = torch.tensor([0, 1, 3])
    assert torch.equal(cleaned.color_gradient[keep], color[keep])
    assert cleaned.alpha_gradient is not None
    assert torch.equal(cleaned.alpha_gradient[keep], alpha[keep])
    assert not cleaned.color_gradient[2].any()
    assert not cleaned.alpha_gradient[2].any()


def test_a_strength_that_is_not_finite_leaves_out_everything() -> None:
    output = GuidanceOutput(
        torch.ones(2, 3, 3, 3), {}, relative_strength=torch.tensor(torch.nan, dtype=torch.float64)
    )
    cleaned, count = without_broken(output)
    assert int(count) == 2
    assert not cleaned.color_gradient.any()
    assert float(cleaned.relative_strength) == 0.0  # type: ignore[arg-type]


def test_too_many_in_a_row_end_the_run_with_a_sound_scene(tmp_path: Path) -> None:
    state, log, finished = run(Brighten(range(3, 100)), 40)
    assert not finished
    assert state.step == 3 + MOST_BROKEN
    assert any("in a row" in text for text in log.said)
    assert all(bool(leaf.isfinite().all()) for leaf in state.optimizer.leaves.values())


def test_now_and_then_is_no_reason_to_end() -> None:
    state, _, finished = run(Brighten(range(0, 40, 2)), 40)
    assert finished
    assert state.step == 40

"""One run by two real processes: the numbers of one, an end by Ctrl-C, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError, DeviceError, ProcessError
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.pipeline import generate
from vlm3d_gs.spread.start import several_processes

STEPS = 6
N_INIT = 200


def config(out: Path, **values: object) -> Config:
    """A run of a round with its fits, then distillation, with a critic that chooses and pulls."""
    settings = {
        "out": out,
        "train.steps": STEPS,
        "scene.n_init": N_INIT,
        "critic.every": 2,
        "critic.watch.enabled": False,
        "reconstruct.until": 0.6,
        "reconstruct.fit_steps": 2,
        "densify.start": 0.1,
        # The first Gaussians are round, so the gradient of their rotation is rounding alone, which Adam makes large.
        "optim.eps": 1e-6,
        "export.formats": "ply",
        **values,
    }
    return apply_settings(preset("mini", "a red cube on top of a blue sphere"), settings)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


class _At:
    """Does something after a step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action

    def __call__(
        self, state: TrainState, scalars: Mapping[str, float], stop_requested: Callable[[], bool]
    ) -> bool:
        if state.step == self.step:
            self.action()
        return False


def test_two_processes_go_on_with_a_run_as_one_does_until_ctrl_c(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    generate(config(tmp_path / "alone"), quiet=True, until=1)
    shutil.copytree(tmp_path / "alone", tmp_path / "shared")
    alone = generate(config(tmp_path / "alone"), quiet=True, resume=True, until=STEPS - 1)

    # The signal reaches the first process alone; both end after the step at which they agree on it.
    interrupt = _At(STEPS - 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    shared = generate(
        config(tmp_path / "shared", processes=2), quiet=True, resume=True, observe=interrupt
    )
    assert shared.signal == signal.SIGINT
    assert shared.steps == STEPS - 1
    assert torch.get_num_threads() == threads

    names = [
        sorted(path.name for path in (tmp_path / run).iterdir()) for run in ("alone", "shared")
    ]
    assert names[0] == names[1]
    for mine, ours in zip(rows(tmp_path / "alone"), rows(tmp_path / "shared"), strict=True):
        # Depth bends at edges, which a pixel has or has not: rounding decides it here and there.
        bends = "regularizer/roughness"
        assert ours.pop(bends, 0.0) == pytest.approx(mine.pop(bends, 0.0), rel=0.02)
        assert ours == pytest.approx(mine, rel=1e-3, abs=1e-3)
    assert len(shared.gaussians) == len(alone.gaussians) != N_INIT
    # Where a gradient is next to nothing, rounding decides its sign, and Adam takes a whole step (0.006 was seen).
    for name, value in alone.gaussians.parameters().items():
        assert (shared.gaussians.parameters()[name] - value).abs().median() < 1e-3, name


def test_more_processes_than_cards_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(DeviceError, match=r"processes=64 on cuda:1 need 64 CUDA devices"),
        several_processes(config(tmp_path, processes=64), torch.device("cuda", 1), tmp_path, ""),
    ):
        pass


def test_numbers_of_processes_have_a_range(tmp_path: Path) -> None:
    for wrong in (0, 65):
        with pytest.raises(ConfigError, match="processes must be in"):
            config(tmp_path, processes=wrong)


def test_guidances_of_the_caller_need_one_process(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Set processes=1"):
        generate(config(tmp_path, processes=2), guidances=[object()])  # type: ignore[list-item]


def test_the_error_of_a_process_is_told(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    shared = config(tmp_path / "none", processes=2)
    with (
        pytest.raises(ProcessError, match=r"Process 1 of 2 .* with exit code 2: .*checkpoint"),
        several_processes(shared, cpu, tmp_path, "whole", resume=True, until=None) as team,
        team.together(lambda: False),
    ):
        pytest.fail("a process that cannot start was not noticed")

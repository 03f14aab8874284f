"""How often a run would wait for a GPU, counted without one: never in a fit, once a round for the log and for NaN.

Operations that need a number in Python, or a size that depends on values, wait; a mode counts them. gsplat's own are
not ours to count, so a stand-in for its function draws.
"""

from __future__ import annotations

import json
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vlm3d_gs
from optimize.test_reconstruct import settings_of
from optimize.test_trainer import fresh
from recordable import WAITS, Recordable, refused
from vlm3d_gs.config import Config
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.optimize import log_rows
from vlm3d_gs.optimize.guidance import Progress, Views
from vlm3d_gs.optimize.reconstruct import Reconstruction
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.optimize.targets import Chain
from vlm3d_gs.optimize.trainer import train
from vlm3d_gs.render import gsplat_backend
from vlm3d_gs.runs.log import RunLog

PACKAGE = Path(vlm3d_gs.__file__).parent
ROUNDS, FITS = 3, 4
ON_HOST = {
    "core/cameras.py": "cameras are drawn, and looked at, on the CPU",
    "optimize/targets.py:take": "so is which target comes next",
    "optimize/step.py:combine_gradients": "the first step's norm is a Python number, copied without waiting",
}
FETCH = "optimize/log_rows.py:_fetched"
ONCE = {
    "core/checks.py:expect_finite": 6,
    "core/gaussians.py:validate": 1,
    "optimize/state.py:_expect_no_nan": 8,
    "optimize/targets.py:state_tensors": 1,
}
"""Waits of a whole run: the state is copied before the first step, and the scene checked after the last."""


class Waits(Recordable):
    """Counts, by the innermost line of the package, what asks the device."""

    def __init__(self) -> None:
        super().__init__(count_only=True)
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if refused(func, args):
            frames = traceback.extract_stack()
            ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)]
            place = "tests"
            if ours:
                file = Path(ours[-1].filename).relative_to(PACKAGE).as_posix()
                place = f"{file}:{ours[-1].name}"
            if not place.startswith(tuple(ON_HOST)):
                self.places[place] += 1
        return func(*args, **(kwargs or {}))


def rasterization(means: Tensor, quats: Tensor, scales: Tensor, **others: Any) -> Any:
    """Colours that depend on everything, in the form of gsplat's function, without waiting."""
    n, size = len(others["viewmats"]), (others["height"], others["width"])
    opacities, colors = others["opacities"], others["colors"]
    means2d = means[None, :, :2].expand(n, -1, -1) * 1.0
    shade = (means2d.sum(-1) + quats.sum(-1) + scales.sum(-1) + colors.sum((1, 2))) * opacities
    pixels = shade.mean(1).tanh()[:, None, None, None].expand(n, *size, 4)
    alpha = opacities.mean().expand(n, *size, 1)
    radii = torch.full((n, len(means)), 3.0)
    return pixels, alpha, {"means2d": means2d, "radii": radii}


class Sketcher:
    """Draws grey."""

    name = "sketcher"

    def azimuth_range_deg(self, chain: Chain, progress: Progress) -> None:
        """Any."""

    def draw(
        self, views: Views, chain: Chain, progress: Progress
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        return views.color * 0.5, {"brightness": views.color.mean()}


@pytest.fixture
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the CPU for a device that must be waited for, with gsplat's adapter."""

    def render_gsplat(scene: Gaussians, cameras: Cameras, background: Tensor, degree: int) -> Any:
        return gsplat_backend.rasterize(rasterization, scene, cameras, background, degree)

    monkeypatch.setattr(TrainState, "is_waited_for", property(lambda state: True))
    monkeypatch.setattr(gsplat_backend, "render_gsplat", render_gsplat)


def waited(settings: Config, state: TrainState) -> Counter[str]:
    """Run, and return where it waited."""
    settings.out.mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        RunLog(settings.out, settings, quiet=True) as log,
        Waits() as waits,
    ):
        fetched = log_rows._fetched

        def counted(waiting: Sequence[Tensor]) -> list[float]:
            # On the CPU a list of numbers is made without an operation.
            waits.places[FETCH] += bool(waiting)
            return fetched(waiting)

        patch.setattr(log_rows, "_fetched", counted)
        train(state, settings, [], log, reconstruction=Reconstruction(Sketcher()))
    return waits.places


def on_card(out: Path, **values: object) -> Config:
    settings = settings_of(out, fit_steps=constant(FITS), **values)
    return replace(
        settings,
        render=replace(settings.render, backend="gsplat"),
        densify=replace(settings.densify, enabled=False),
        train=replace(settings.train, steps=ROUNDS * FITS, checkpoint_every=0.0),
    )


@pytest.mark.usefixtures("as_on_a_card")
def test_a_round_waits_once_and_a_fit_never(tmp_path: Path) -> None:
    settings = on_card(tmp_path / "run")
    # The last row is fetched when the run ends.
    assert waited(settings, fresh(settings)) == {FETCH: ROUNDS + 1, **ONCE}

    # All rows are in the log nevertheless, in order, each with its own numbers.
    rows = [json.loads(line) for line in (settings.out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, ROUNDS * FITS + 1))
    assert len({row["fit/loss"] for row in rows}) == len(rows)
    assert [number for number, row in enumerate(rows) if "sketcher/brightness" in row] == [0, 4, 8]


@pytest.mark.usefixtures("as_on_a_card")
def test_densification_waits_for_the_new_sizes_at_the_end_of_a_round(tmp_path: Path) -> None:
    settings = on_card(tmp_path / "run")
    settings = replace(
        settings, densify=replace(settings.densify, enabled=True, start=0.0, stop=0.7)
    )
    places = waited(settings, fresh(settings))
    assert places.pop(FETCH) == ROUNDS + 1
    places = Counter({place: n for place, n in places.items() if place not in ONCE})
    assert places
    assert {place.partition(":")[0] for place in places} <= {
        "optimize/densify.py",
        "optimize/trainer.py",
        "optimize/parts.py",
    }


@pytest.mark.usefixtures("as_on_a_card")
@pytest.mark.parametrize("densified", [False, True])
def test_a_scene_that_is_not_finite_ends_the_run_with_its_round(
    tmp_path: Path, densified: bool
) -> None:
    settings = on_card(tmp_path / "run")
    if densified:  # which removes the Gaussian
        settings = replace(settings, densify=replace(settings.densify, enabled=True, start=0.0))
    state = fresh(settings)
    with torch.no_grad():
        state.optimizer.leaves["means"][3] = float("nan")
    with pytest.raises(ConfigError, match="NaN or infinite"):
        waited(settings, state)
    assert state.step == FITS
    assert len((settings.out / "metrics.jsonl").read_text().splitlines()) == FITS


def test_the_counter_sees_what_waits() -> None:
    assert WAITS
    with Waits() as waits:
        x = torch.rand(3)
        float(x.sum())
        x[x > 0.5].sum()
    assert sum(waits.places.values()) == 2

"""The floor of rendering counts what the definition of the picture needs, no more and no less."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.render.conventions import TRANSMITTANCE_STOP
from vlm3d_gs.render.reference import alphas, pixel_centres, project


@pytest.fixture
def floor(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import render_floor

    yield render_floor
    for name in ("render_floor", "harness"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("opacity", [0.05, 0.3, 0.95])
def test_pairs_are_the_weights_of_the_definition(
    floor: ModuleType, opacity: float, generator: torch.Generator
) -> None:
    scene = ball(300, 0.6, generator, opacity=opacity)
    cameras = orbit([0.0, 100.0], 15.0, 3.2, 40.0, 40, 24)
    double, views = scene.to(dtype=torch.float64), cameras.to("cpu", torch.float64)
    means2d, conics, depths, radii, _ = project(double, views)
    expected = 0
    for view in range(2):
        seen = radii[view] > 0
        alpha = alphas(means2d[view], conics[view], double.opacities, pixel_centres(views)) * seen
        alpha = alpha[:, depths[view].argsort(stable=True)]
        light = torch.cumprod(1.0 - alpha, 1)
        expected += int(((light > TRANSMITTANCE_STOP) & (alpha > 0.0)).sum())
    assert floor.pairs(scene, cameras) == expected > 0


def test_the_floor_is_operations_or_bytes_whichever_takes_longer(
    floor: ModuleType, generator: torch.Generator
) -> None:
    scene, cameras = ball(10, 0.6, generator), orbit([0.0], 15.0, 3.2, 40.0, 8, 8)
    operations = 1000 * floor.PAIR_FORWARD + 10 * floor.PROJECTION_FORWARD
    backward = 1000 * floor.PAIR_BACKWARD + 10 * floor.PROJECTION_BACKWARD
    assert floor.PAIR_FORWARD < floor.PAIR_BACKWARD
    assert floor.PROJECTION_FORWARD < floor.PROJECTION_BACKWARD
    assert floor.floor_ms(scene, cameras, 1000, (1e6, 1e18)) == pytest.approx(
        (operations / 1e3, (operations + backward) / 1e3)
    )
    moved = 10 * floor.GAUSSIAN_BYTES + 64 * floor.PIXEL_BYTES
    assert floor.floor_ms(scene, cameras, 1000, (1e18, 1e6)) == pytest.approx(
        (moved / 1e3, 3 * moved / 1e3)
    )

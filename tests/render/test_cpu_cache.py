"""The compiled code kept between runs computes what the process that compiled it computed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlm3d_gs.assembly.device import device_notes
from vlm3d_gs.render.cpu.cache import COMPILES, KERNELS, is_compiled

PROGRAM = """
import hashlib, torch
from oracles import draw_scene, ring
from vlm3d_gs.render import render
from vlm3d_gs.core.gaussians import Gaussians

scene = draw_scene(300, 3, 0, ("plain",))
leaves = {name: value.clone().requires_grad_() for name, value in scene.parameters().items()}
drawn = render(Gaussians(**leaves), ring(2), backend="cpu")
(drawn.color.square().sum() + drawn.alpha.sum() + drawn.depth.sum()).backward()
for value in (drawn.color, drawn.means2d.grad, *(leaf.grad for leaf in leaves.values())):
    print(hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_the_first_run_gives_the_same_bytes_as_all_later_ones(
    tmp_path: Path, repo_root: Path
) -> None:
    paths = os.pathsep.join([str(repo_root / "src"), str(repo_root / "tests")])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}
    cold, warm = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    )
    assert len(cold.splitlines()) == 7
    assert cold == warm
    assert any(tmp_path.rglob("*.nbc")), "the cache was used"
    assert any(tmp_path.rglob(KERNELS)), "the name by which `is_compiled` looks"


def test_a_fresh_cache_says_that_the_renderer_is_not_compiled_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "none"))
    assert not is_compiled()
    assert COMPILES in device_notes("cpu", torch.device("cpu"))

    (tmp_path / "none" / "cpu_1").mkdir(parents=True)
    (tmp_path / "none" / "cpu_1" / "blend_backward.blend_backward-216.py311.nbi").touch()
    assert is_compiled()
    assert COMPILES not in device_notes("cpu", torch.device("cpu"))

"""Fixtures for all tests: device, generators, shared reference data, and no network by accident."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from vlm3d_gs.core.cameras import Cameras
    from vlm3d_gs.core.gaussians import Gaussians

# Torch takes seconds to load, and rules about the source need none: it is imported where it is used.

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """Share the cores among the processes of a test run."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        import numba
        import torch

        threads = max(1, (os.cpu_count() or 1) // workers)
        torch.set_num_threads(threads)
        numba.set_num_threads(min(threads, numba.get_num_threads()))


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Root of the checkout, for tests that read the project's own files."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the frozen expectations."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """Reference data too large for the repository, beside the checkout; skips where it is
    absent."""
    path = (ROOT / ".." / "shared" / "fixtures").resolve()
    if not path.is_dir():
        pytest.skip("reference data beside the checkout (../shared/fixtures) is absent here")
    return path


@pytest.fixture(params=["tiny", "basic"])
def stored_case(
    request: pytest.FixtureRequest, shared_fixtures: Path
) -> tuple[Gaussians, Cameras, torch.Tensor]:
    """A scene, its camera, and the RGBA picture that gsplat's CUDA kernels made of them."""
    import torch
    from safetensors.torch import load_file

    from vlm3d_gs.core.cameras import Cameras
    from vlm3d_gs.core.gaussians import Gaussians

    path = shared_fixtures / "gsplat_render" / f"{request.param}_case.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is absent here")
    data = load_file(path)
    scene = Gaussians(
        data["means"], data["scales"], data["quats"], data["opacities"], data["coeffs"]
    )
    height, width = data["out_img"].shape[:2]
    viewmat = torch.eye(4)
    viewmat[:3, 3] = -torch.tensor([0.123, 0.456, -8.0])
    focal = width / 2
    intrinsics = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    none = torch.zeros(1)
    return (
        scene,
        Cameras(viewmat[None], intrinsics[None], width, height, none, none, none),
        data["out_img"],
    )


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that tests run on; the CUDA half is marked gpu."""
    import torch

    return torch.device(request.param)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded CPU generator, so that a test draws the same numbers every time."""
    import torch

    return torch.Generator().manual_seed(20261122)


@pytest.fixture(autouse=True)
def _global_random_state() -> Iterator[None]:
    """Seed torch's global generator, so that no test depends on the order of the others."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


@pytest.fixture(autouse=True, scope="session")
def _offline() -> Iterator[None]:
    """Keep model hubs out of the tests: what is not on disk is an error at once, not a download."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TRANSFORMERS_OFFLINE", "1")
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_tree_of_commands() -> Iterator[None]:
    """Build typer's commands once: its runner does so at each call, which takes longer than most calls."""
    if "typer.testing" not in sys.modules:
        yield
        return
    from typer.main import get_command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(get_command), raising=False)
        yield


def skip_reason(markers: set[str], *, cuda_available: bool, node_available: bool) -> str | None:
    """Say why a test with these markers cannot run here, or None when it can."""
    if "gpu" in markers and not cuda_available:
        return "needs a CUDA device, and torch sees none"
    if "node" in markers and not node_available:
        return "needs node.js on the path"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip gpu and node tests, with the reason, where the machine has none."""
    cuda_available, node_available = False, shutil.which("node") is not None
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        cuda_available = torch.cuda.is_available()
    for item in items:
        names = {marker.name for marker in item.iter_markers()}
        reason = skip_reason(names, cuda_available=cuda_available, node_available=node_available)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))

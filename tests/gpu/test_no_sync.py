"""How often a step of a run waits for the device: each time, the card soon has nothing to do."""

from __future__ import annotations

import importlib.util
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import vlm3d_gs
from vlm3d_gs.assembly.objective import build_objective
from vlm3d_gs.assembly.start import STREAMS, first_cloud
from vlm3d_gs.assembly.weights import locate_models
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.prompts import parse_prompt
from vlm3d_gs.core.seeding import generator as named_generator
from vlm3d_gs.core.seeding import generators
from vlm3d_gs.kernels import available
from vlm3d_gs.optimize.optimizer import SceneOptimizer
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.optimize.trainer import train_step

pytestmark = pytest.mark.gpu

PACKAGE = Path(vlm3d_gs.__file__).parent
RENDERERS = {"render/gsplat_backend.py", "render/reference.py"}
"""What waits inside a renderer's library is not ours to change."""
MOST_WAITS = 0
"""Of a step with the prior alone: its log and whether the scene is finite are fetched later (`optimize.log_rows`)."""
MOST_WAITS_WITH_CRITIC = 60
"""transformers' vision towers read their grids on the host."""
STEPS = 4


@contextmanager
def counted_waits() -> Iterator[Counter[str]]:
    """Count what waits for the device inside the block, by the innermost line of the package."""
    found: Counter[str] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing CUDA operation" not in str(message):
            return
        frames = [Path(frame.filename) for frame in traceback.extract_stack()]
        lines = [frame.lineno for frame in traceback.extract_stack()]
        ours = [k for k, path in enumerate(frames) if path.is_relative_to(PACKAGE)]
        place = frames[ours[-1]].relative_to(PACKAGE).as_posix() if ours else "elsewhere"
        found[f"{place}:{lines[ours[-1]] if ours else 0}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def waits_of_a_step(tmp_path: Path, *, targets: bool = False, **settings: object) -> Counter[str]:
    """Return the waits of `STEPS` steps after as many to warm up; of distillation, or of fits to `targets`."""
    gsplat = importlib.util.find_spec("gsplat") is not None
    config = apply_settings(
        preset("mini", "a red cube on top of a blue sphere"),
        {
            "out": tmp_path / "run",
            "device": "cuda",
            "render.backend": "gsplat" if gsplat else "reference",
            "scene.n_init": 300,
            "densify.enabled": False,
            **settings,
        },
    )
    device = torch.device("cuda")
    streams = generators(config.train.seed, STREAMS)
    objective = build_objective(
        config,
        parse_prompt(config.prompt),
        locate_models(config.priors, config.critic),
        device,
        streams,
    )
    first = first_cloud(config.scene, named_generator(config.train.seed, "first cloud"))
    state = TrainState(SceneOptimizer(first.to(device), config.optim), streams)
    reconstruction = objective.reconstruction if targets else None
    for _ in range(STEPS):
        train_step(state, config, objective.guidances, reconstruction)
    with counted_waits() as found:
        for _ in range(STEPS):
            train_step(state, config, objective.guidances, reconstruction)
    return Counter(
        {
            place: count
            for place, count in found.items()
            if place.rpartition(":")[0] not in RENDERERS
        }
    )


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_with_the_prior_alone_does_not_wait(tmp_path: Path, fused: bool) -> None:
    if fused and not available():
        pytest.skip("the own kernels are not built: make cuda")
    found = waits_of_a_step(tmp_path, **{"critic.enabled": False, "optim.fused": fused})
    assert sum(found.values()) <= MOST_WAITS * STEPS, found.most_common()


def test_a_fit_to_targets_does_not_wait(tmp_path: Path) -> None:
    # One round of ten fits; the steps that are counted are the fifth to the eighth.
    found = waits_of_a_step(tmp_path, targets=True, **{"critic.enabled": False})
    assert not found, found.most_common()


@pytest.mark.parametrize("fused", [False, True])
def test_the_noise_of_sampling_does_not_wait(tmp_path: Path, fused: bool) -> None:
    if fused and not available():
        pytest.skip("the own kernels are not built: make cuda")
    sampling = {"enabled": True, "method": "mcmc", "start": 1.0, "stop": 1.0}
    settings = {f"densify.{name}": value for name, value in sampling.items()}
    found = waits_of_a_step(tmp_path, **{"critic.enabled": False, "optim.fused": fused, **settings})
    assert sum(found.values()) <= MOST_WAITS * STEPS, found.most_common()


def test_a_step_with_the_critic_waits_within_reason(tmp_path: Path) -> None:
    found = waits_of_a_step(tmp_path, **{"critic.every": 1, "critic.mode": "gradient"})
    assert sum(found.values()) <= MOST_WAITS_WITH_CRITIC * STEPS, found.most_common()

"""Seconds until a scene is right: whole runs of the embedded models, read every twentieth by the checker.

    python benchmarks/bench_asset.py [--seeds 1] [--prompts 8] [--set a.b=c]

A run is finished, for this count, at the first reading from which on every reading has the objects and the relation
right (`evaluate.composition`), and clean at the first from which on all are clean too. Readings are copies taken while
the run goes on and judged after it, so the checker's time is not in the count. The seconds begin with the call, so they
hold the loading of models, but not Python's imports.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_composition import PROMPTS, read_prompts
from harness import arguments, record

from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.prompts import parse_composition
from vlm3d_gs.evaluate.composition import CompositionReport, evaluate
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.pipeline import generate

READINGS = 20
"""A run."""


class Reader:
    """Copies the scene now and then, with the seconds since the beginning."""

    def __init__(self, steps: int) -> None:
        self.every = max(1, steps // READINGS)
        self.began = time.perf_counter()
        self.taken: list[tuple[float, int, Gaussians]] = []

    def __call__(
        self, state: TrainState, scalars: Mapping[str, float], stop_asked: Callable[[], bool]
    ) -> bool:
        """Take a copy if it is time; never ends the run."""
        if state.step % self.every == 0:
            scene = state.optimizer.gaussians.detach().clone()
            self.taken.append((time.perf_counter() - self.began, state.step, scene))
        return False


def since_when(
    taken: Sequence[tuple[float, int]], passes: Sequence[bool]
) -> tuple[float, int] | None:
    """Return seconds and step of the first reading from which on all pass; None if the last does not."""
    first = len(passes)
    while first and passes[first - 1]:
        first -= 1
    return taken[first] if first < len(passes) else None


def time_run(config: Config) -> dict[str, Any]:
    """Make one run and return its row."""
    reader = Reader(config.train.steps)
    result = generate(config, quiet=True, observe=reader)
    composition = parse_composition(config.prompt)
    last = (result.seconds, result.steps, result.gaussians)
    readings = [*reader.taken, last]
    reports: list[CompositionReport] = [evaluate(scene, composition) for _, _, scene in readings]
    times = [(seconds, step) for seconds, step, _ in readings]
    right = since_when(times, [report.content_right for report in reports])
    clean = since_when(times, [report.content_right and report.clean for report in reports])
    return {
        "prompt": config.prompt,
        "seed": config.train.seed,
        "right_after_s": None if right is None else round(right[0], 2),
        "right_at_step": None if right is None else right[1],
        "clean_after_s": None if clean is None else round(clean[0], 2),
        "run_s": round(result.seconds, 2),
    }


def main() -> None:
    """Read the options, make the runs, print medians, and write the JSON."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=8, help="how many, spread over the list")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="a.b=c")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    listed = read_prompts(PROMPTS)
    prompts = listed[:: max(1, len(listed) // options.prompts)][: options.prompts]
    rows = []
    for seed in range(options.seeds):
        for prompt in prompts:
            with tempfile.TemporaryDirectory() as folder:
                values = {"out": Path(folder) / "run", "train.seed": seed, "export.formats": "ply"}
                rows.append(
                    time_run(apply_settings(preset("mini", prompt), values, options.settings))
                )
            print(rows[-1], flush=True)
    reached = [r["right_after_s"] for r in rows if r["right_after_s"] is not None]
    print(
        f"right: {len(reached)} of {len(rows)}"
        + (f", after {statistics.median(reached):.1f} s in the median" if reached else "")
    )
    print(record("asset", rows, options.out))


if __name__ == "__main__":
    main()

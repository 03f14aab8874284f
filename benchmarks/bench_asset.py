"""Seconds until a scene is right: whole runs of the embedded models, checked at every twentieth of a run.

    python benchmarks/bench_asset.py [--seeds 1] [--prompts 8] [--set a.b=c]

A run counts as right from the first reading on after which every reading has the objects and the relation right
(`evaluate.composition`), and as clean from the first on after which all are clean too. Readings are copies taken during
the run and judged after it, so the checker's time does not count. The seconds start with the call, so they include
loading the models, but not Python's imports.
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
"""Per run."""


class SceneReader:
    """Copies the scene at regular steps, with the seconds since the start."""

    def __init__(self, steps: int) -> None:
        self.every = max(1, steps // READINGS)
        self.began = time.perf_counter()
        self.readings: list[tuple[float, int, Gaussians]] = []

    def __call__(
        self, state: TrainState, scalars: Mapping[str, float], stop_requested: Callable[[], bool]
    ) -> bool:
        """Take a copy if it is time; never end the run."""
        if state.step % self.every == 0:
            scene = state.optimizer.gaussians.detach().clone()
            self.readings.append((time.perf_counter() - self.began, state.step, scene))
        return False


def settled_at(
    times: Sequence[tuple[float, int]], passes: Sequence[bool]
) -> tuple[float, int] | None:
    """Return seconds and step of the first reading from which on all pass; None if the last one fails."""
    first = len(passes)
    while first and passes[first - 1]:
        first -= 1
    return times[first] if first < len(passes) else None


def time_run(config: Config) -> dict[str, Any]:
    """Run once and return the row."""
    reader = SceneReader(config.train.steps)
    result = generate(config, quiet=True, observe=reader)

    composition = parse_composition(config.prompt)
    last = (result.seconds, result.steps, result.gaussians)
    readings = [*reader.readings, last]
    reports: list[CompositionReport] = [evaluate(scene, composition) for _, _, scene in readings]

    times = [(seconds, step) for seconds, step, _ in readings]
    right = settled_at(times, [report.content_right for report in reports])
    clean = settled_at(times, [report.content_right and report.clean for report in reports])
    return {
        "prompt": config.prompt,
        "seed": config.train.seed,
        "right_after_s": None if right is None else round(right[0], 2),
        "right_at_step": None if right is None else right[1],
        "clean_after_s": None if clean is None else round(clean[0], 2),
        "run_s": round(result.seconds, 2),
    }


def main() -> None:
    """Run every prompt and seed, print the median, and write the JSON."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=8, help="number, spread over the list")
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

"""What a step of the whole program costs with the large models: random weights, real sizes, the real `generate`.

    python benchmarks/bench_large.py --out benchmarks/results               # on a GPU
    python benchmarks/bench_large.py --size tiny --steps 6 --cases mvdream  # a try without

A case is a preset with or without a critic, run for few steps with all its schedules squeezed into them, so that every
resolution of the whole run has its share. Steps after the first `WARM_UP` are timed one by one from outside, through
the trainer's observer. Seconds of an asset are the preset's own number of steps times the mean step, an
extrapolation. The file is written anew after each case: what was measured survives whatever comes next.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from harness import arguments, record, wait_for_device
from random_models import random_critic, random_prior

from vlm3d_gs.config import apply_settings
from vlm3d_gs.pipeline import generate
from vlm3d_gs.presets import preset
from vlm3d_gs.recipes import apply_recipe

PROMPT = "a corgi wearing a top hat to the left of a red toy robot"
WARM_UP = 4


@dataclass(frozen=True)
class Case:
    """A preset as users run it."""

    name: str
    preset: str
    critic: str | None = None
    recipe: str | None = None
    settings: tuple[str, ...] = ()


CASES = (
    Case("mvdream", "mvdream"),
    Case("mvdream + 3B critic", "mvdream", "qwen2.5-vl-3b"),
    Case("mvdream + 7B critic", "mvdream", "qwen2.5-vl-7b"),
    Case("mvdream + 7B critic, recipe of VLM3D", "mvdream", "qwen2.5-vl-7b", "vlm3d-paper"),
    Case(
        "mvdream + 7B critic every 4th step", "mvdream", "qwen2.5-vl-7b", None, ("critic.every=4",)
    ),
    Case("sd", "sd"),
)


class Clock:
    """An observer of the trainer that notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def __call__(
        self, state: Any, scalars: Mapping[str, float], stop_asked: Callable[[], bool]
    ) -> bool:
        """Note the time, waiting for the device first."""
        wait_for_device()
        self.ends.append(time.perf_counter())
        return False


def measure_case(case: Case, folders: dict[str, Path], steps: int, tiny: bool) -> dict[str, Any]:
    """Run one case and return its row."""
    base = preset(case.preset, PROMPT)
    whole = base.train.steps
    if case.recipe:
        base = apply_recipe(base, case.recipe)
    values: dict[str, Any] = {
        "prior.model": str(folders[case.preset]),
        "critic.enabled": case.critic is not None,
        "critic.watch.enabled": False,
        "train.steps": steps,
        "export.formats": "ply",
    }
    if case.critic:
        values |= {
            "critic.family": "qwen2.5-vl-3b" if tiny else case.critic,
            "critic.model": str(folders[case.critic]),
            "critic.mode": "gradient",
        }
    if tiny:
        values |= {"scene.n_init": 200, "camera.resolution_px": 64, "prior.size_px": 64}
        values |= {"critic.size_px": 56}
    with tempfile.TemporaryDirectory() as temporary:
        values["out"] = Path(temporary) / "run"
        config = apply_settings(base, values, list(case.settings))
        clock = Clock()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        generate(config, quiet=True, observe=clock)
        total = time.perf_counter() - began
    spent = [
        1e3 * (after - before)
        for before, after in zip(clock.ends[WARM_UP:], clock.ends[WARM_UP + 1 :], strict=False)
    ]
    row = {
        "case": case.name,
        "steps": steps,
        "views": config.camera.n_views,
        "mean_step_ms": round(fmean(spent), 2),
        "median_step_ms": round(median(spent), 2),
        "iterations_per_s": round(1e3 / fmean(spent), 3),
        "steps_of_an_asset": whole,
        "seconds_of_an_asset": round(whole * fmean(spent) / 1e3, 1),
        "seconds_of_this_run": round(total, 1),
    }
    if torch.cuda.is_available():
        row["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return row


def main() -> None:
    """Build the models that the cases need and measure each case."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--cases", default="", help="names separated by semicolons; default: all")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--limit-s", type=float, default=600.0, help="begin no case after so long")
    options = parser.parse_args()
    wanted = [part for part in options.cases.split(";") if part]
    cases = [case for case in CASES if not wanted or case.name in wanted]
    tiny, began, rows = options.size == "tiny", time.perf_counter(), []
    with tempfile.TemporaryDirectory() as temporary:
        folders: dict[str, Path] = {}
        for case in cases:
            if time.perf_counter() - began > options.limit_s:
                rows.append({"case": case.name, "error": "no time was left"})
                continue
            try:
                if case.preset not in folders:
                    folders[case.preset] = random_prior(
                        case.preset, Path(temporary) / case.preset, options.size
                    )
                if case.critic and case.critic not in folders:
                    folders[case.critic] = random_critic(
                        "tiny-qwen" if tiny else case.critic, Path(temporary) / case.critic
                    )
                rows.append(measure_case(case, folders, options.steps, tiny))
            except Exception as error:  # one case must not cost the others their numbers
                rows.append({"case": case.name, "error": f"{type(error).__name__}: {error}"[:2000]})
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            print(rows[-1], flush=True)
            record(f"large_{options.size}", rows, options.out)


if __name__ == "__main__":
    main()

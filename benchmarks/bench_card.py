"""Whole assets at real sizes with random weights: the loop of `generate`, part by part, without loading and export.

    python benchmarks/bench_card.py --cases "mvdream;mvdream + 7B;mini" [--steps N] [--size tiny]

Each case is run twice from its first cloud with the same models: the first pays for recording and for what libraries
choose, the second is what a further asset of the process costs; both are reported. `--threads-table` times the embedded
models on the CPU with 1, 2, 4, ... threads instead. `--size tiny` tries all of it on any machine.

The result is written after each case, so that what was measured survives if the machine is taken away.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from harness import arguments, record, wait_for_device
from random_models import random_critic, random_prior

from vlm3d_gs.app.bench import measure_run
from vlm3d_gs.assembly.objective import Objective
from vlm3d_gs.assembly.start import STREAMS, new_run, new_state, read_prompt
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.core.seeding import generators
from vlm3d_gs.optimize.trainer import train
from vlm3d_gs.runs.log import RunLog

PROMPTS = {"mini": "a red cube on top of a blue sphere"}
PROMPT = "a corgi wearing a top hat to the left of a red toy robot"
CRITIC = "qwen2.5-vl-7b"
CASES = ("mvdream + 7B", "mvdream", "mini")
"""The most informative first, since time may run out."""
TINY = {
    "scene.n_init": 200,
    "scene.max_gaussians": 300,
    "camera.resolution_px": 64,
    "prior.size_px": 64,
    "critic.size_px": 56,
}


def config_of(case: str, folder: Path, size: str, device: str, steps: int | None) -> Config:
    """Return the config of a case, with random weights where its models are not embedded."""
    name, _, with_critic = case.partition(" + ")
    values: dict[str, Any] = {"device": device}
    if name != "mini":
        values["prior.model"] = str(_once(folder / name, lambda at: random_prior(name, at, size)))
    if with_critic:
        weights = CRITIC if size == "full" else "tiny-qwen"
        values |= {
            "critic.enabled": True,
            "critic.family": CRITIC,
            "critic.model": str(_once(folder / weights, lambda at: random_critic(weights, at))),
        }
    if name != "mini" and size == "tiny":
        values |= TINY
    if steps is not None:
        values["train.steps"] = steps
    return apply_settings(preset(name, PROMPTS.get(name, PROMPT)), values)


def _once(folder: Path, make: Any) -> Path:
    if not folder.is_dir():
        make(folder)
    return folder


def measure_asset(config: Config, folder: Path) -> dict[str, Any]:
    """Run a config twice and return the row."""
    prompt, device = (
        read_prompt(config.prompt, config.priors, config.critic),
        torch.device(config.device),
    )
    said: list[str] = []
    began = time.perf_counter()
    _, objective, _ = new_run(config, prompt, device)
    wait_for_device()
    loading_s = time.perf_counter() - began

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with noticing(said.append):
        runs = [run_loop(config, objective, device, folder / str(number)) for number in range(2)]
    return {
        "loading_s": round(loading_s, 2),
        "first_loop_s": round(runs[0][0], 2),
        "loop_s": round(runs[1][0], 2),
        **runs[1][1],
        "peak_mib": torch.cuda.max_memory_allocated(device) // 2**20
        if device.type == "cuda"
        else 0,
        "notices": said,
    }


def run_loop(
    config: Config, objective: Objective, device: torch.device, folder: Path
) -> tuple[float, dict[str, int]]:
    """Do all steps; return the seconds, and what was counted."""
    state = new_state(config, device, generators(config.train.seed, STREAMS))
    folder.mkdir(parents=True, exist_ok=True)
    wait_for_device()
    began = time.perf_counter()
    with RunLog(folder, config, quiet=True) as log:
        train(state, config, objective.guidances, log, reconstruction=objective.reconstruction)
    wait_for_device()
    seconds = time.perf_counter() - began
    return seconds, {name.replace(" ", "_"): number for name, number in state.counts.items()}


def threads_table(steps: int) -> list[dict[str, Any]]:
    """Time the embedded models with 1, 2, 4, ... threads, section by section."""
    cores, rows = torch.get_num_threads(), list[dict[str, Any]]()
    config = apply_settings(
        preset("mini", PROMPTS["mini"]), {"train.steps": steps, "device": "cpu"}
    )
    threads = 1
    while threads <= cores:
        torch.set_num_threads(threads)
        rows.append({"threads": threads, **measure_run(config, floors=False).to_dict()})
        print(rows[-1], flush=True)
        threads *= 2
    torch.set_num_threads(cores)
    return rows


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", default=";".join(CASES), help="names separated by semicolons")
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--steps", type=int, default=None, help="default: the preset's own")
    parser.add_argument("--limit-s", type=float, default=600.0, help="start no case after so long")
    parser.add_argument("--threads-table", action="store_true", help="time threads instead")
    options = parser.parse_args()
    if unknown := set(options.cases.split(";")) - set(CASES):
        parser.error(f"no such cases: {sorted(unknown)}. There are: {'; '.join(CASES)}")
    return options


def main() -> None:
    """Measure and write the result."""
    options, began = parse_options(), time.perf_counter()
    torch.set_num_threads(options.threads)
    if options.threads_table:
        print(record("threads", threads_table(options.steps or 40), options.out))
        return

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for case in options.cases.split(";"):
            row: dict[str, Any] = {"case": case, "size": options.size, "device": device}
            if time.perf_counter() - began > options.limit_s:
                row["error"] = "no time was left"
            else:
                try:
                    config = config_of(case, folder, options.size, device, options.steps)
                    row |= measure_asset(config, folder / f"runs {case}")
                except Exception as error:  # one case must not cost the others their numbers
                    row["error"] = f"{type(error).__name__}: {error}"[:2000]
            rows.append(row)
            print(row, flush=True)
            record(f"card_{options.size}", rows, options.out)


if __name__ == "__main__":
    main()

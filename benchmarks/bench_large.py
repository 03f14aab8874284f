"""What a step costs with large models, section by section, ours and those of others: random weights, real sizes.

    python benchmarks/bench_large.py --out benchmarks/results                  # on a GPU
    python benchmarks/bench_large.py --size tiny --steps 6 --cases mvdream     # a trial without one
    python benchmarks/bench_large.py --steps 12 --released-critic qwen2.5-vl-3b --limit-s 1e5 \
        --cases "mvdream + 3B;VLM3D, 4 views of 256 px"    # real sizes on a CPU, in half an hour

The trainer and the guidances of `generate` (`vlm3d_gs.app.bench.measure_run`) run each procedure (procedures.py) for a
few steps, with all its schedules squeezed into them, so that every resolution of the whole run has its share. The
seconds of an asset are an extrapolation: the procedure's own number of steps, or that of this stage, times the mean
step. The file is rewritten after each case: what was measured survives whatever comes next.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from harness import arguments, record
from procedures import PROCEDURES, PROMPT, SEVEN, THREE, Procedure
from random_models import random_critic, random_prior
from released import ReleasedCritic

from vlm3d_gs.app.bench import measure_run
from vlm3d_gs.assembly.device import choose_device
from vlm3d_gs.assembly.objective import Objective
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.core.precision import fast_dtype
from vlm3d_gs.critic.questions.templates import joint_question
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.optimize.guidance import Guidance

CRITIC_PX = 252
"""Side of the pictures that the released critic sees, 81 tokens each."""
TINY = {"scene.n_init": 200, "camera.resolution_px": 64, "prior.size_px": 64, "critic.size_px": 56}
"""Settings of a trial."""


def config_of(
    procedure: Procedure, folders: dict[str, Path], steps: int, *, tiny: bool
) -> tuple[Config, int]:
    """Return a procedure's config as it is timed, with few steps if it distils, and the steps of its whole run."""
    whole = procedure.config()
    values: dict[str, Any] = {
        "prior.model": str(folders[whole.prior.family]),
        "critic.watch.enabled": False,
    }
    # Rounds of targets and fits cannot be squeezed into fewer steps: such a run is timed whole.
    if tiny or whole.train.loop == "distill":
        values["train.steps"] = steps
    if procedure.critic and not procedure.released:
        values |= {
            "critic.family": "qwen2.5-vl-3b" if tiny else procedure.critic,
            "critic.model": str(folders[procedure.critic]),
        }
    return apply_settings(whole, values | (TINY if tiny else {})), whole.train.steps


def released_beside(
    folder: Path, until: int, side_px: int
) -> Callable[[Objective], Sequence[Guidance]]:
    """Return a function that adds the released critic to the guidances of a config."""

    def with_released(objective: Objective) -> Sequence[Guidance]:
        device = choose_device("auto")
        dtype = fast_dtype(device) or torch.float32
        model = YesNoModel(folder, device, dtype, fast_modules=False)
        critic = ReleasedCritic(model, joint_question(PROMPT), size_px=side_px, until=until)
        return [*objective.guidances, critic]

    return with_released


def measure_case(
    procedure: Procedure, folders: dict[str, Path], steps: int, *, tiny: bool
) -> dict[str, Any]:
    """Run one procedure and return its row."""
    config, asset_steps = config_of(procedure, folders, steps, tiny=tiny)
    guidances = None
    if procedure.released and procedure.critic:
        until = round(procedure.released * steps)
        side_px = TINY["critic.size_px"] if tiny else CRITIC_PX
        guidances = released_beside(folders[procedure.critic], until, side_px)

    began = time.perf_counter()
    countable = not config.prior.compile  # operations in compiled graphs are hidden
    report = measure_run(config, floors=countable, guidances=guidances)
    asset_steps = round(procedure.share * asset_steps)

    return {
        "case": procedure.name,
        "critic": procedure.critic or "none",
        "views": config.camera.n_groups * config.camera.n_views,
        "step_ms": round(report.unwatched_ms, 2),
        "iterations_per_s": round(report.iterations_per_s, 3),
        "asset_steps": asset_steps,
        "asset_s": round(asset_steps * report.unwatched_ms / 1e3, 1),
        "peak_mib": round(report.peak_mib),
        "peak_gflops": round(report.peak_gflops),
        "floor_ms_sum": round(sum(report.floor_ms.values()), 2) if countable else "not counted",
        "watched_step_ms": round(report.whole_ms, 2),
        "timed_steps": report.steps,
        "seconds_of_this_row": round(time.perf_counter() - began, 1),
        "parts_ms": {name: round(value, 2) for name, value in report.sections_ms.items()},
        "floor_ms": {name: round(value, 2) for name, value in report.floor_ms.items()},
    }


class Weights:
    """Folders with random weights, each written when a case first needs it."""

    def __init__(self, root: Path, size: str) -> None:
        self.root, self.size = root, size
        self.folders: dict[str, Path] = {}

    def provide(self, procedure: Procedure) -> dict[str, Path]:
        """Write what a procedure lacks, and return all folders so far, by family of prior and name of critic."""
        family = procedure.config().prior.family
        if family not in self.folders:
            self.folders[family] = random_prior(family, self.root / family, self.size)

        critic = procedure.critic
        if critic and critic not in self.folders:
            name = "tiny-qwen" if self.size == "tiny" else critic
            self.folders[critic] = random_critic(name, self.root / critic)
        return self.folders


def parse_options() -> tuple[argparse.Namespace, list[Procedure]]:
    """Read the command line; return the options and the cases to run."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", default="", help="names separated by semicolons; default: all")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument(
        "--limit-s", type=float, default=600.0, help="start no case after so many seconds"
    )
    parser.add_argument(
        "--released-critic",
        choices=[SEVEN, THREE],
        default=SEVEN,
        help="its size in the rows of VLM3D",
    )
    options = parser.parse_args()

    chosen = [name for name in options.cases.split(";") if name]
    known = [case.name for case in PROCEDURES]
    if unknown := set(chosen) - set(known):
        parser.error(f"no such cases: {sorted(unknown)}. There are: {'; '.join(known)}")
    cases = [
        replace(case, critic=options.released_critic) if case.released else case
        for case in PROCEDURES
        if not chosen or case.name in chosen
    ]
    return options, cases


def main() -> None:
    """Build the models that the cases need and measure each case."""
    options, cases = parse_options()
    torch.set_num_threads(options.threads)
    tiny, began = options.size == "tiny", time.perf_counter()

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        weights = Weights(Path(temporary), options.size)
        for case in cases:
            if time.perf_counter() - began > options.limit_s:
                rows.append({"case": case.name, "error": "no time was left"})
                continue

            try:
                folders = weights.provide(case)
                rows.append(measure_case(case, folders, options.steps, tiny=tiny))
            except Exception as error:  # one case must not cost the others their numbers
                rows.append({"case": case.name, "error": f"{type(error).__name__}: {error}"[:2000]})

            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            print(rows[-1], flush=True)
            record(f"large_{options.size}", rows, options.out)


if __name__ == "__main__":
    main()

"""What too strong a reward does: the critic's own score against a held-out one over training, at several weights.

    python benchmarks/hacking.py --runs runs/hacking --prompts 4 --seeds 1

Each run is the preset with `critic.weight` times 1, 3, 10 and 100. The watch reads the scene ten times: the reward that
the run climbs, and the held-out score (other words, other views, another resolution). They part at the reading after
the best held-out score if the reward has risen since and the held-out score has fallen by `critic.watch.margin`. The
watch should then have exported the scene from before; the checker says what that was worth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_composition import PROMPTS, read_prompts
from harness import ROOT, record

from vlm3d_gs.config import to_dict
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.run import folder_name
from vlm3d_gs.config.schedules import Schedule
from vlm3d_gs.evaluate.runs import evaluate_run

FACTORS = (1, 3, 10, 100)
MARGIN = 1.0
"""Log-odds that the held-out score must have lost; the default of `critic.watch.margin`."""


def weight(name: str, prompt: str, factor: float) -> str:
    """Return the preset's weight of the critic times a factor, as `--set` takes it."""
    config = preset(name, prompt)
    old = config.critic.weight
    scaled = Schedule(old.kind, tuple((at, value * factor) for at, value in old.points))
    changed = to_dict(config)["critic"] | {"weight": str(scaled)}
    return str(changed["weight"])


def make(prompt: str, seed: int, factor: int, out: Path, given: argparse.Namespace) -> bool:
    """Make a run, unless it is there."""
    if (out / "summary.json").is_file():
        return True
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = [f"critic.weight={weight(given.preset, prompt, factor)}", "critic.watch.every=0.1"]
    options = ["--preset", given.preset, "--seed", str(seed), "--export", "ply", "--quiet"]
    options += [word for one in settings for word in ("--set", one)]
    options += ["--steps", str(given.steps)] if given.steps else []
    options += ["--out", str(out), *(["--overwrite"] if out.exists() else [])]
    words = [sys.executable, "-m", "vlm3d_gs", "generate", prompt, *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(
            f"FAILED {out}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", flush=True
        )
    return done.returncode == 0


def parted_at(watch: dict[str, Any]) -> int | None:
    """Return the step of the first reading at which reward and held-out score have parted, None if they have not."""
    readings = list(zip(watch["steps"], watch["reward"], watch["held_out"], strict=True))
    best = readings[0]
    for one in readings[1:]:
        if best[2] - one[2] > MARGIN and one[1] >= best[1]:
            return int(one[0])
        if one[2] > best[2]:
            best = one
    return None


def measured(out: Path, prompt: str, seed: int, factor: int) -> dict[str, Any]:
    """Return one row."""
    watch = json.loads((out / "summary.json").read_text())["watch"]
    report = evaluate_run(out).report
    parted = parted_at(watch)
    exported = watch["exported_step"]
    return {
        "prompt": prompt,
        "seed": seed,
        "factor": factor,
        "steps": watch["steps"],
        "reward": watch["reward"],
        "held_out": watch["held_out"],
        "parted_at": parted,
        "watch_said_diverged": watch["diverged"],
        "exported_step": exported,
        "exported_before_parting": None if parted is None else exported < parted,
        "content_right": report.content_right,
        "clean": report.clean,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return one row a factor."""
    lines = [
        "| weight | runs | parted | watch said so | exported before | last reward | last held-out | right | clean |"
    ]
    lines.append("|---" * 9 + "|")
    for factor in FACTORS:
        own = [row for row in rows if row["factor"] == factor]
        if not own:
            continue
        parted = [row for row in own if row["parted_at"] is not None]
        cells: list[object] = [f"x{factor}", len(own), len(parted)]
        cells += [sum(row["watch_said_diverged"] for row in own)]
        cells += [sum(row["exported_before_parting"] for row in parted)]
        cells += [
            f"{sum(row[name][-1] for row in own) / len(own):.1f}" for name in ("reward", "held_out")
        ]
        cells += [
            f"{sum(row[name] for row in own) / len(own):.0%}" for name in ("content_right", "clean")
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, and write rows and table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "hacking")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--preset", default="mini-single", choices=["mini", "mini-single"])
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, help="in place of the preset's, to try the script")
    given = parser.parse_args()

    # Prompts of two objects: there the critic has something to say.
    prompts = [one for one in read_prompts(PROMPTS) if len(one.split()) > 4][: given.prompts]
    rows = []
    for seed in range(given.seeds):
        for prompt in prompts:
            for factor in FACTORS:
                out = given.runs / given.preset / f"x{factor}" / f"{folder_name(prompt)}-{seed}"
                if make(prompt, seed, factor, out, given):
                    rows.append(measured(out, prompt, seed, factor))
                    print(f"x{factor} {prompt}: parted at {rows[-1]['parted_at']}", flush=True)
    print(table(rows))
    print(record("hacking", rows, given.out))


if __name__ == "__main__":
    main()

"""Scenes of many objects: how many are as their prompt says, and how well the checker tells spoiled ones apart.

    python benchmarks/scenes.py make --runs runs/scenes --seeds 1 [--no-critic]
    python benchmarks/scenes.py spoil --out runs/spoiled.jsonl

`make` calls `vlm3d-gs generate` once for each prompt of tests/golden/scenes.txt and each seed, and checks the splat it
wrote (`vlm3d_gs.evaluate.scene`). `spoil` draws each prompt's layout as a perfect splat, and in six ways that make the
prompt untrue, and counts right verdicts. What is there already is kept, so either can be interrupted and called again.
Times are CPU seconds of the whole command, since a shared machine's wall clock says little.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import ROOT, commit

from vlm3d_gs.config.run import folder_name
from vlm3d_gs.evaluate.runs import evaluate_run
from vlm3d_gs.evaluate.scene import evaluate_scene
from vlm3d_gs.layout.grammar import parse_scene
from vlm3d_gs.layout.solver import solve_layout

PROMPTS = ROOT / "tests" / "golden" / "scenes.txt"
GROUPS = ("three objects", "four to six", "counts", "sizes")
A_GROUP = 8
"""Prompts of each, in the order of the file."""


def read_prompts() -> list[str]:
    """Return the prompts, group by group."""
    lines = (line.strip() for line in PROMPTS.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def by_turns() -> list[str]:
    """Return the prompts, one of each group in turn, so that a table that is cut short has all groups."""
    prompts = read_prompts()
    return [
        prompts[group * A_GROUP + row] for row in range(A_GROUP) for group in range(len(GROUPS))
    ]


def group_of(prompt: str) -> str:
    """Return the group of one of the prompts."""
    return GROUPS[read_prompts().index(prompt) // A_GROUP]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows that are there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row, at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def make(runs: Path, seeds: int, extra: Sequence[str], only: str | None) -> None:
    """Make and check what is missing."""
    file = runs / "scenes.jsonl"
    done = {(row["prompt"], row["seed"]) for row in rows_of(file)}
    for seed in range(seeds):
        for prompt in by_turns():
            if (prompt, seed) in done or (only is not None and only not in prompt):
                continue
            out = runs / f"{folder_name(prompt)}-{seed}"
            if not (out / "summary.json").is_file():
                cpu_s, wall_s = run_command(prompt, seed, out, extra)
            else:
                cpu_s, wall_s = None, None

            report = evaluate_run(out).report
            summary = json.loads((out / "summary.json").read_text())
            answers = summary.get("answers", [])
            row = {
                "prompt": prompt,
                "group": group_of(prompt),
                "seed": seed,
                "things": sum(summary["objects"].values()),
                "right": report.content_right,
                "clean": report.clean,
                "reasons": list(report.reasons),
                "said_no": [one["question"] for one in answers if not one["yes"]],
                "cpu_s": cpu_s,
                "wall_s": wall_s,
                "evaluations": summary.get("network_evaluations"),
                "gaussians": summary["gaussians"],
                "commit": commit(),
            }
            append(file, row)
            print(json.dumps(row), flush=True)


def run_command(prompt: str, seed: int, out: Path, extra: Sequence[str]) -> tuple[float, float]:
    """Call `vlm3d-gs generate`; return its CPU and wall seconds."""
    command = [sys.executable, "-m", "vlm3d_gs", "generate", prompt, "--seed", str(seed)]
    command += ["--out", str(out), "--export", "ply,sheet", "--quiet", *extra]
    command += ["--overwrite"] if out.exists() else []
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, env=dict(os.environ))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(cpu_s, 2), round(time.monotonic() - began, 1)


def spoil(out: Path) -> None:
    """Check perfect and spoiled scenes of all prompts, those that are missing."""
    sys.path.insert(0, str(ROOT / "tests" / "evaluate"))
    import spoiled_scenes

    ways: dict[str, Callable[..., Any]] = {
        name: getattr(spoiled_scenes, name)
        for name in (
            "things_of",
            "swapped",
            "mirrored",
            "missing",
            "doubled",
            "wrong_size",
            "wrong_shape",
        )
    }
    done = {(row["prompt"], row["way"]) for row in rows_of(out)}
    for prompt in by_turns():
        graph = parse_scene(prompt)
        layout = solve_layout(graph)
        for name, way in ways.items():
            if (prompt, name) in done:
                continue
            things = way(layout)
            if things is None:
                append(out, {"prompt": prompt, "way": name, "applies": False})
                continue
            report = evaluate_scene(spoiled_scenes.splat_of(things), graph)
            perfect = name == "things_of"
            told = report.ok if perfect else not report.content_right
            row = {"prompt": prompt, "group": group_of(prompt), "way": name, "applies": True}
            row |= {"told": told, "content": report.content_right, "reasons": report.reasons}
            append(out, row)
            print(json.dumps(row), flush=True)


def share(rows: Sequence[dict[str, Any]], key: str) -> str:
    """Return "7 of 8"."""
    return f"{sum(bool(row[key]) for row in rows)} of {len(rows)}"


def made_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the scenes by group as Markdown."""
    lines = ["| scenes | right | clean too | CPU s |", "|---|---|---|---|"]
    for group in (*GROUPS, "all"):
        own = [row for row in rows if group in (row["group"], "all")]
        both = [{"ok": row["right"] and row["clean"]} for row in own]
        seconds = sorted(row["cpu_s"] for row in own if row["cpu_s"] is not None)
        span = f"{seconds[0]:.0f} to {seconds[-1]:.0f}" if seconds else "-"
        lines.append(f"| {group} | {share(own, 'right')} | {share(both, 'ok')} | {span} |")
    return "\n".join(lines)


def spoilt_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return how many scenes of each way were told apart, as Markdown."""
    rows = [row for row in rows if row["applies"]]
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = ["| scene | told apart |", "|---|---|"]
    for way in ways:
        name = "perfect" if way == "things_of" else way
        lines.append(f"| {name} | {share([row for row in rows if row['way'] == way], 'told')} |")
    spoilt = [row for row in rows if row["way"] != "things_of"]
    return "\n".join([*lines, f"| all spoilt | {share(spoilt, 'told')} |"])


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("--runs", type=Path, required=True)
    making.add_argument("--seeds", type=int, default=1)
    making.add_argument("--no-critic", action="store_true")
    making.add_argument("--only", help="prompts with this in them")
    spoiling = commands.add_parser("spoil")
    spoiling.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if arguments.command == "make":
        extra = ["--no-critic"] if arguments.no_critic else []
        make(arguments.runs, arguments.seeds, extra, arguments.only)
        print(made_table(rows_of(arguments.runs / "scenes.jsonl")))
    else:
        spoil(arguments.out)
        print(spoilt_table(rows_of(arguments.out)))


if __name__ == "__main__":
    main()

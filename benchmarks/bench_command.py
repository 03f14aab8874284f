"""Whole commands from process start to the last file, several checkouts in turn.

    python benchmarks/bench_command.py [--tree before=PATH_TO_ANOTHER_CHECKOUT] [--repeats 3] [--cases all;ply]

Every run is a fresh process with warm caches, on the prompt of `make demo`. The checkouts take turns within a round, so
that what else the machine does meets all of them alike; read the ratios, not the seconds. The case `start` is one step
without critic: imports, models, the first pictures and the PLY, so the rest of `ply` is its steps.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import ROOT, arguments, record

PROMPT = "a red cube on top of a blue sphere"
PLY = ("--no-critic", "--export", "ply")
CASES: dict[str, tuple[str, ...]] = {"all": (), "ply": PLY, "start": (*PLY, "--steps", "1")}
"""Name -> what follows `generate PROMPT`."""


def time_command(tree: Path, case: str, threads: int) -> tuple[float, float]:
    """Run one command of a checkout; return wall and CPU seconds."""
    # Installed packages and checkouts in use have compiled bytecode; here it might be forbidden.
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment = {
        **kept,
        "PYTHONPATH": str(tree / "src"),
        "OMP_NUM_THREADS": str(threads),
        "NUMBA_NUM_THREADS": str(threads),
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vlm3d_gs", "generate", PROMPT, *CASES[case]]
        before, began = _cpu_seconds(), time.perf_counter()
        done = subprocess.run(
            [*command, "--out", f"{folder}/run"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{tree}: {case} failed:\n{done.stderr[-2000:]}")
    return wall, _cpu_seconds() - before


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commit_of(tree: Path) -> str | None:
    """Return the short commit of a checkout, None without git."""
    done = subprocess.run(
        ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def main() -> None:
    """Time every case of every checkout, print medians and ratios, and write the JSON."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", default=";".join(CASES), help=f"of {', '.join(CASES)}")
    options = parser.parse_args()

    trees = {"this": ROOT, **{n: Path(p) for n, _, p in (t.partition("=") for t in options.tree)}}
    runs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for repeat in range(options.repeats):
        for case in options.cases.split(";"):
            for name, tree in trees.items():
                measured = time_command(tree, case, options.threads)
                runs.setdefault((case, name), []).append(measured)
                print(
                    f"{repeat + 1} {case} {name}: {measured[0]:.1f} s, CPU {measured[1]:.1f} s",
                    flush=True,
                )

    rows: list[dict[str, Any]] = []
    for (case, name), measured in runs.items():
        wall, cpu = (statistics.median(column) for column in zip(*measured, strict=True))
        ours = statistics.median(wall for wall, _ in runs[case, "this"])
        rows.append(
            {
                "case": case,
                "tree": name,
                "commit": commit_of(trees[name]),
                "wall_s": round(wall, 2),
                "cpu_s": round(cpu, 2),
                "this_to_it": round(ours / wall, 3),
                "runs": len(measured),
            }
        )
        print(rows[-1], flush=True)
    print(record("command", rows, options.out))


if __name__ == "__main__":
    main()

"""Everything that needs a GPU, in one script of eight minutes: whole assets, tests, threads, benchmarks.

    python benchmarks/gpu_check.py --out benchmarks/results [--only "assets;tests"]

Runs from a bare checkout: only the dependencies need to be installed. Each check is a subprocess with
a time limit, so that if one crashes or hangs, the others still run; --only runs some by name. Writes
gpu_check.json (verdict, seconds and last lines of each check, with card, versions and commit) to --out
after each check; a benchmark writes its own file there as it goes.

Exit code: 0 if all passed; 2 if there is no CUDA device and nothing was checked; otherwise the sum of
the failed checks' numbers (see `checks`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
NO_GPU = 2
LAST_LINES = 40

Verdict = Literal["passed", "failed", "nothing to do"]


@dataclass(frozen=True)
class Check:
    """One command to run."""

    number: int
    """Its bit of the exit code, a power of two."""
    name: str
    """Its name in the report."""
    command: tuple[str, ...]
    """Run in the root of the checkout."""
    limit_s: int
    """Seconds after which it counts as failed."""
    needs: str = "."
    """Glob under the root; without a match the check is skipped, and the report says so."""


PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
# Importing gsplat builds its kernels if they did not come in a wheel.
GSPLAT = """
import gsplat, torch
from gsplat import rasterization
print(gsplat.__version__, torch.__version__)
"""
IN_TURN = """
import shlex, subprocess, sys
out, *benches = sys.argv[1:]
codes = [subprocess.run([sys.executable, *shlex.split(bench), "--out", out]).returncode for bench in benches]
sys.exit(max(map(abs, codes)))
"""
ASSETS = "benchmarks/bench_card.py --limit-s 110"
THREADS = "benchmarks/bench_card.py --threads-table"
CRITIC = (
    "benchmarks/bench_critic.py --model qwen2.5-vl-3b --views 4 --size 252 --repeats 5 --ways "
    "'ours, one question;released, one question;ours, three questions;released, three questions;as a CUDA graph'"
)
LARGE = "benchmarks/bench_large.py --steps 18 --limit-s 30"
ALL_S = 8 * 60
"""The limits of all checks together: a card is often lent for a quarter of an hour, its start included."""


def checks(out: Path) -> list[Check]:
    """Return the checks in order: what later ones need comes first, then what is worth most."""

    def timed(number: int, name: str, limit_s: int, *benches: str) -> Check:
        return Check(number, name, (sys.executable, "-c", IN_TURN, str(out), *benches), limit_s)

    small = ("benchmarks/bench_render.py --quick", "benchmarks/bench_kernels.py")
    tests = (*PYTEST, "-m", "gpu", "tests/gpu")
    return [
        Check(4, "gsplat", (sys.executable, "-c", GSPLAT), 40),
        timed(8, "assets", 160, ASSETS),
        Check(16, "kernels", ("make", "cuda"), 30, "cuda/*.cu"),
        Check(32, "tests", tests, 70, "tests/gpu/test_*.py"),
        timed(64, "threads", 60, THREADS),
        timed(128, "benchmarks", 120, LARGE, CRITIC, *small),
    ]


def run(check: Check) -> dict[str, Any]:
    """Run one check and return its row of the report."""
    if check.needs != "." and not any(ROOT.glob(check.needs)):
        return {**asdict(check), "verdict": "nothing to do", "seconds": 0.0, "output": []}

    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    start = time.perf_counter()
    try:
        done = subprocess.run(
            check.command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=check.limit_s,
            check=False,
        )
        output, passed = done.stdout, done.returncode == 0
    except subprocess.TimeoutExpired as expired:
        caught = expired.stdout or ""
        output = caught.decode(errors="replace") if isinstance(caught, bytes) else caught
        output, passed = f"{output}\nstopped after {check.limit_s} s", False
    except OSError as error:
        output, passed = str(error), False

    return {
        **asdict(check),
        "verdict": "passed" if passed else "failed",
        "seconds": round(time.perf_counter() - start, 1),
        "output": output.splitlines()[-LAST_LINES:],
    }


def card() -> dict[str, Any] | None:
    """Describe the first CUDA device, or return None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    device = torch.cuda.get_device_properties(0)
    return {
        "name": device.name,
        "memory_mib": device.total_memory // 2**20,
        "capability": f"{device.major}.{device.minor}",
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
    }


def exit_code(rows: list[dict[str, Any]]) -> int:
    """Return the sum of the failed checks' numbers."""
    return sum(row["number"] for row in rows if row["verdict"] == "failed")


def main(arguments: list[str] | None = None) -> int:
    """Run the checks, write the report, return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    names = [check.name for check in checks(ROOT)]
    parser.add_argument("--only", default=";".join(names), help="names separated by semicolons")
    options = parser.parse_args(arguments)
    out: Path = options.out.resolve()
    chosen = options.only.split(";")
    if unknown := set(chosen) - set(names):
        parser.error(f"no such checks: {sorted(unknown)}. There are: {'; '.join(names)}")

    device = card()
    if device is None:
        print("gpu-check: torch sees no CUDA device here, so nothing was checked (exit code 2).")
        return NO_GPU

    sys.path.insert(0, str(ROOT / "src"))
    from vlm3d_gs.runs.log import provenance, write_json

    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for check in checks(out):
        if check.name not in chosen:
            continue
        rows.append(run(check))
        print(f"{rows[-1]['verdict']:<14}{check.name} ({rows[-1]['seconds']} s)", flush=True)
        if rows[-1]["verdict"] == "failed":
            print("\n".join(rows[-1]["output"]), flush=True)

        # Written after each check: what was found survives if the machine is taken away.
        write_json(out / "gpu_check.json", {"device": device, "checks": rows, **provenance()})
    print(json.dumps({row["name"]: row["verdict"] for row in rows}))
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())

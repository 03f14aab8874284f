"""How benchmarks are timed and recorded: warm-up, repeats, median and spread, one JSON file per run.

A result carries what is needed to judge it: hardware, load of the machine, versions, commit,
command. Wall time is what a user waits for; CPU time (summed over all threads) separates the work
from what other programs take of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "numba", "llvmlite", "gsplat", "diffusers", "transformers")


@dataclass(frozen=True)
class Timing:
    """Repeated timings of one function, in milliseconds."""

    median_ms: float
    """Median wall time."""
    quartile_low_ms: float
    """First quartile of the wall time."""
    quartile_high_ms: float
    """Third quartile of the wall time."""
    best_ms: float
    """Fastest repeat."""
    cpu_median_ms: float
    """Median CPU time of all threads of this process."""
    repeats: int
    """Number of timed repeats."""


def measure(
    function: Callable[[], Any], *, warm_up: int = 3, repeats: int = 30, limit_s: float = 20.0
) -> Timing:
    """Time a function; with CUDA, synchronise before and after each call.

    Args:
        function: what to time; its result is dropped.
        warm_up: calls that are not timed.
        repeats: timed calls, at least 2.
        limit_s: stop repeating (after at least 2 calls) once so much time has passed.
    """
    for _ in range(warm_up):
        function()

    wall, cpu = [], []
    begin = time.perf_counter()
    while len(wall) < 2 or (len(wall) < repeats and time.perf_counter() - begin < limit_s):
        wait_for_device()
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        function()
        wait_for_device()
        wall.append(1e3 * (time.perf_counter() - wall_start))
        cpu.append(1e3 * (time.process_time() - cpu_start))

    low, middle, high = statistics.quantiles(wall, n=4)
    values = (middle, low, high, min(wall), statistics.median(cpu))
    return Timing(*(round(value, 3) for value in values), repeats=len(wall))


def wait_for_device() -> None:
    """Wait until the CUDA device, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """Return hardware, load and versions."""
    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := installed(name)) is not None},
        "gpu": None,
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
    return facts


def cpu_name() -> str:
    """Return the processor's name as the system reports it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed(name: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the short commit of the checkout, with "+" if files of src differ from it; None without git."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "src"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark: --out and --threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the JSON"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="CPU threads, torch's and ours"
    )
    return parser


def record(theme: str, rows: Sequence[dict[str, Any]], out: Path) -> Path:
    """Write the rows with everything needed to judge them, and return the file.

    The name is theme_hardware_date_commit.json; a second run on the same day and commit replaces
    the first.
    """
    facts, now, state = machine(), datetime.now(UTC), commit()
    hardware = (facts["gpu"] or f"{facts['cores']}cores").lower().replace(" ", "-")
    content = {
        "theme": theme,
        "time_utc": now.isoformat(timespec="seconds"),
        "commit": state,
        "command": " ".join([Path(sys.executable).name, *map(portable, sys.argv)]),
        "machine": facts,
        "rows": list(rows),
    }

    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{theme}_{hardware}_{now:%Y-%m-%d}_{(state or 'nocommit').rstrip('+')}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def portable(argument: str) -> str:
    """Return a command's argument without what only this machine has.

    An absolute path inside the checkout becomes relative to it; of one outside, the last name is kept.
    """
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def row(case: dict[str, Any], timing: Timing) -> dict[str, Any]:
    """Return one row of a result: the settings of a case and its timing."""
    return {**case, **asdict(timing)}

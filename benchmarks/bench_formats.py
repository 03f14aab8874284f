"""Reading and writing splat files of a million Gaussians, beside other people's program in the same run.

    python benchmarks/bench_formats.py [--count 1000000] [--rival "node .../splat-transform/bin/cli.mjs --gpu cpu"]

`read` (file to arrays in its axes) and `write` (Gaussians of our world to file) are timed inside this process, the best
of the repeats. `convert` is a whole command, ours and the rival's, so that the start of each counts. `lost` is the root
mean square of what higher harmonics lost, as a share of their own. Where a machine has other work, read CPU seconds.
"""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import ROOT, arguments, record
from scipy.spatial import cKDTree

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.convert import load_arrays, write_splat

SUFFIXES = (".ply", ".spz", ".sog")
CONVERSIONS = ((".ply", ".spz"), (".ply", ".sog"), (".spz", ".ply"), (".sog", ".ply"))
DECAY = (1.0, 0.6, 0.35)
"""Harmonics of degrees 1 to 3, as they become smaller in trained scenes."""


def scene(count: int) -> Gaussians:
    """Return a surface with colours and harmonics that vary smoothly, and noise on all of it."""
    draw = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=1)
    radius = 0.6 + 0.3 * torch.sin(5 * normal[:, :1]) * torch.cos(4 * normal[:, 1:2])
    means = normal * radius + 0.01 * torch.randn(count, 3, generator=draw)

    color = 0.5 + 0.3 * torch.sin(means * torch.tensor([3.0, 5.0, 7.0]))
    color = color + 0.05 * torch.randn(count, 3, generator=draw)
    smooth = torch.tanh(3 * means) @ (0.06 * torch.randn(3, 45, generator=draw))
    rough = 0.05 * torch.randn(count, 45, generator=draw)
    rough *= torch.exp(0.5 * torch.randn(count, 1, generator=draw))
    fall = torch.repeat_interleave(torch.tensor(DECAY), torch.tensor([9, 15, 21]))

    return Gaussians(
        means=means,
        log_scales=0.7 * torch.randn(count, 3, generator=draw) - 5.2,
        quats=torch.randn(count, 4, generator=draw),
        opacity_logits=1.5 + 2.5 * torch.randn(count, generator=draw),
        sh=torch.cat(
            [((color - 0.5) / SH_C0)[:, None], ((smooth + rough) * fall).reshape(count, 15, 3)],
            dim=1,
        ),
    )


def timed(function: Callable[[], object], repeats: int) -> dict[str, Any]:
    """Return the best wall and CPU seconds of some calls, those of child processes included."""
    found = []
    for _ in range(repeats):
        before, began = _cpu_seconds(), time.perf_counter()
        function()
        found.append((time.perf_counter() - began, _cpu_seconds() - before))
    wall, cpu = (min(column) for column in zip(*found, strict=True))
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "runs": repeats}


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run(command: list[str], threads: int, limit_s: float) -> None:
    """Run a program to its end; raise `TimeoutExpired` if it takes longer than the limit."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": str(threads),
    }
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=limit_s
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def lost(source: Path, target: Path) -> float:
    """Return the root mean square of what higher harmonics lost, as a share of their own."""
    before, after = (load_arrays(path) for path in (source, target))
    # Formats change the order; positions are much closer to their own than to their neighbours.
    match = cKDTree(after.means).query(before.means, workers=-1)[1]
    rest = before.sh[:, 1:]
    error = np.square(rest - after.sh[match, 1:]).mean() / np.square(rest).mean()
    return round(float(error**0.5), 4)


def main() -> None:
    """Time every case, print it, and write the JSON."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rival", help="command that takes SOURCE TARGET, as splat-transform does")
    parser.add_argument("--limit-s", type=float, default=120.0, help="most time of a command")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rows: list[dict[str, Any]] = []

    def add(**row: Any) -> None:
        rows.append(row)
        print(row, flush=True)

    gaussians = scene(options.count)
    with tempfile.TemporaryDirectory() as folder:
        write_splat(scene(2000), Path(folder) / "warm.sog")  # compiles what a first use compiles
        for suffix in SUFFIXES:
            path = Path(folder) / f"ours{suffix}"
            found = timed(partial(write_splat, gaussians, path), options.repeats)
            add(case="write", format=suffix, who="ours", **found, mb=_megabytes(path))
            found = timed(partial(load_arrays, path), options.repeats)
            add(case="read", format=suffix, who="ours", **found)

        del gaussians
        for start, end in CONVERSIONS:
            source, target = Path(folder) / f"ours{start}", Path(folder) / f"out{end}"
            case = {"case": "convert", "format": f"{start} to {end}"}
            ours = [sys.executable, "-m", "vlm3d_gs", "convert", "--overwrite"]
            commands = {"ours": [*ours, str(source), str(target)]}
            if options.rival:
                theirs = shlex.split(options.rival)
                commands["rival"] = [*theirs, "--overwrite", str(source), str(target)]
            for who, command in commands.items():
                call = partial(run, command, options.threads, options.limit_s)
                try:
                    found = timed(call, options.repeats)
                except subprocess.TimeoutExpired:
                    add(**case, who=who, stopped_after_s=options.limit_s)
                    continue
                more = {"lost": lost(source, target)} if end == ".sog" else {}
                add(**case, who=who, **found, mb=_megabytes(target), **more)
    print(record("formats", rows, options.out))


def _megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)


if __name__ == "__main__":
    main()

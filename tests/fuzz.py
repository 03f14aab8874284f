"""The fuzzer: damaged files into every reader; anything but a result or our own error is a finding.

    python tests/fuzz.py --count 200000 --seconds 3600 ply spz
    make fuzz                                       all of them, 200,000 each, at most an hour each

Input number i of a format depends on the seed, the format and i alone. The inputs are read in a
process of their own with limits, so that a crash, too much memory and too much time are seen and
named. Findings are kept in the folder of --out. The USD library does crash, inside the process
that `formats/usd.py` starts: the same code runs here, and each crash is then tried through that
door, which has to say one line.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "src")]

import torch

from mutations import inside_glb, inside_gzip, inside_png, inside_zip, mutate
from splat_files import golden_ksplat, random_splat
from vlm3d_gs.core.errors import InputFileError, Vlm3dGsError
from vlm3d_gs.core.images import load_png, save_png
from vlm3d_gs.formats import usd_child
from vlm3d_gs.formats.convert import load_arrays, write_splat
from vlm3d_gs.formats.options import SplatOptions
from vlm3d_gs.formats.world import to_gaussians
from vlm3d_gs.runs.record import charts, read_record
from vlm3d_gs.show.camera_file import read_cameras

Mutator = Callable[[bytes, random.Random, bytes], bytes]
BATCH = 1000
"""Inputs of one process."""
MOST_BYTES = 2**30
"""Growth of a process by one input that is a finding."""
MOST_SECONDS = 20
"""Time of one input that is a finding."""
APART_BYTES = 2**30
"""What a reader in a process of its own may take, as `formats/usd.py` sets it for small files."""
MOST_FINDINGS = 20
"""Of one format, after which it is left."""


@dataclass(frozen=True)
class Target:
    """What is damaged, and who reads it."""

    suffix: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    damage: Mutator = mutate
    crashes_apart: bool = False
    """Whether the reader runs in a process of its own when it is not under test."""


def splat(suffix: str, damage: Mutator = mutate, **options: object) -> Target:
    """Return the target for a splat format: files of several sizes and degrees."""
    seeds = []
    for count, degree in ((1, 0), (40, 1), (300, 3)):
        path = Path(f"a{suffix}")
        write_splat(random_splat(count, degree), path, SplatOptions(**options))  # type: ignore[arg-type]
        seeds.append(path.read_bytes())
    return Target(suffix, tuple(seeds), read_whole_splat, damage)


def read_whole_splat(path: Path) -> object:
    """Read a splat as every command does; what is accepted has to be finite."""
    gaussians = to_gaussians(load_arrays(path), path)
    assert all(bool(value.isfinite().all()) for value in gaussians.parameters().values())
    return gaussians


def ascii_ply() -> Target:
    """Return the target for PLY as text."""
    from plyfile import PlyData

    write_splat(random_splat(20, 1), "a.ply")
    data = PlyData.read("a.ply")
    data.text = True
    data.write("b.ply")
    return Target(".ply", (Path("b.ply").read_bytes(),), read_whole_splat)


def read_usd(path: Path) -> object:
    """Do what the process that reads USD does."""
    try:
        return usd_child.read_stage(path)
    except usd_child.BROKEN as error:
        raise InputFileError(usd_child.reason(error)) from error


def ksplat() -> Target:
    """Of the files that we only read, those of another program."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = [golden_ksplat(Path(folder), level).read_bytes() for level in range(3)]
    return Target(".ksplat", tuple(seeds), read_whole_splat, mutate)


def usd_file(suffix: str) -> Target:
    """Return the target for a USD file."""
    plain = splat(suffix)
    return Target(suffix, plain.seeds, read_usd, crashes_apart=True)


def picture() -> Target:
    """Return the target for a preview."""
    save_png(torch.rand(24, 32, 3), "a.png")
    return Target(".png", (Path("a.png").read_bytes(),), load_png, inside_png)


def cameras() -> Target:
    """Return the target for a camera file."""
    seeds = (
        b'[{"azimuth_deg": 30, "elevation_deg": 15, "distance": 3.1, "fov_deg": 40, "width": 64, "height": 48}]',
        b'[{"viewmat": [[1,0,0,0],[0,1,0,0],[0,0,1,3],[0,0,0,1]], "K": [[50,0,30],[0,60,20],[0,0,1]],'
        b' "width": 60, "height": 40}, {"azimuth_deg": 1}]',
    )
    return Target(".json", seeds, read_cameras)


def record(name: str, content: bytes) -> Target:
    """Return the target for one file of a run's folder."""

    def read(path: Path) -> object:
        folder = path.parent / "run"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_bytes(b'{"config": {"prompt": "a", "train": {"steps": 3}}}')
        (folder / name).write_bytes(path.read_bytes())
        return charts(read_record(folder))

    return Target(".json", (content,), read)


ROW = b'{"step": %d, "critic/reward": 0.5, "prior/loss": 12.5, "gaussians": 4000, "critic/loss": null}\n'
TARGETS: dict[str, Callable[[], Target]] = {
    "ply": partial(splat, ".ply"),
    "ply-ascii": ascii_ply,
    "compressed.ply": partial(splat, ".compressed.ply"),
    "splat": partial(splat, ".splat"),
    "spz-2": partial(splat, ".spz", inside_gzip, spz_version=2),
    "spz-3": partial(splat, ".spz", inside_gzip),
    "spz-4": partial(splat, ".spz", spz_version=4),
    "glb": partial(splat, ".glb", inside_glb),
    "sog": partial(splat, ".sog", inside_zip),
    "ksplat": ksplat,
    "usda": partial(usd_file, ".usda"),
    "usdc": partial(usd_file, ".usdc"),
    "cameras": cameras,
    "png": picture,
    "config": partial(
        record,
        "config.json",
        b'{"config": {"prompt": "a red cube", "train": {"steps": 30}}, "seed": 0}',
    ),
    "summary": partial(
        record, "summary.json", b'{"steps": 30, "finished": true, "files": ["scene.ply"]}'
    ),
    "metrics": partial(record, "metrics.jsonl", b"".join(ROW % step for step in range(5))),
}


def input_of(target: Target, name: str, seed: int, index: int) -> bytes:
    """Return input number `index` of a format."""
    draw = random.Random(f"{seed}:{name}:{index}")
    return target.damage(draw.choice(target.seeds), draw, draw.choice(target.seeds))


def work(
    target: Target, name: str, seed: int, run: tuple[int, int], shared: mmap.mmap, folder: Path
) -> None:
    """Read the inputs of a run, in a forked process; write where it is, and what it finds, as it goes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
    if target.crashes_apart:
        usd_child.limit(APART_BYTES, 10**6)
    # Reports of libraries about each file.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)

    path = folder / f"input{target.suffix}"
    refused = 0
    for index in range(*run):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        struct.pack_into("<qq", shared, 0, index, refused)
        path.write_bytes(input_of(target, name, seed, index))
        signal.alarm(MOST_SECONDS)
        try:
            target.read(path)
        except Vlm3dGsError as error:
            refused += 1
            if "\n" in str(error):
                (folder / "finding").write_text(f"several lines: {error}")
                os._exit(3)
        except BaseException:
            (folder / "finding").write_text(traceback.format_exc())
            os._exit(3)
        signal.alarm(0)

        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if grown > MOST_BYTES:
            (folder / "finding").write_text(f"memory: {grown / 2**20:.0f} MiB")
            os._exit(3)
    struct.pack_into("<qq", shared, 0, run[1], refused)
    os._exit(0)


def reason_of(target: Target, status: int, folder: Path) -> str:
    """Return why a process ended early; empty if the library crashed and the door keeps that apart."""
    if not os.WIFSIGNALED(status):
        return (folder / "finding").read_text() if (folder / "finding").exists() else "it ended"

    name = signal.Signals(os.WTERMSIG(status)).name
    if not target.crashes_apart:
        return f"{name} ({'too slow' if name == 'SIGALRM' else 'crash'})"
    try:
        read_whole_splat(folder / f"input{target.suffix}")
    except InputFileError as error:
        return "" if "\n" not in str(error) else str(error)
    except BaseException:
        return traceback.format_exc()
    return ""


def fuzz(name: str, count: int, seconds: float, seed: int, out: Path) -> tuple[Counter[str], int]:
    """Read `count` damaged files of a format, or as many as the time allows.

    Returns:
        What happened how often, and the number of findings.
    """
    ends = time.monotonic() + seconds
    shared = mmap.mmap(-1, 16)
    tally: Counter[str] = Counter()
    findings: Counter[str] = Counter()

    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as place:
        folder, here = Path(place), Path.cwd()
        os.chdir(folder)
        target = TARGETS[name]()
        os.chdir(here)

        at = 0
        while at < count and time.monotonic() < ends and findings.total() < MOST_FINDINGS:
            run = (at, min(at + BATCH, count))
            (folder / "finding").unlink(missing_ok=True)
            child = os.fork()
            if child == 0:
                work(target, name, seed, run, shared, folder)
            _, status = os.waitpid(child, 0)

            reached, refused = struct.unpack_from("<qq", shared)
            tally["refused"] += refused
            if status == 0:
                tally["inputs"] += run[1] - at
                at = run[1]
                continue

            tally["inputs"] += reached + 1 - at
            at = reached + 1
            why = reason_of(target, status, folder)
            if not why:
                tally["crashes apart"] += 1
                continue
            kind = why.strip().splitlines()[-1][:100]
            findings[kind] += 1
            if findings[kind] == 1:
                out.mkdir(parents=True, exist_ok=True)
                (out / f"{name}-{reached}{target.suffix}").write_bytes(
                    input_of(target, name, seed, reached)
                )
                (out / f"{name}-{reached}.txt").write_text(why)
            print(f"{name} {reached}: {kind}", flush=True)
    return tally, findings.total()


def main() -> int:
    """Fuzz the formats asked for; return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("formats", nargs="*", help=f"of {', '.join(TARGETS)}; all if none is named")
    parser.add_argument("--count", type=int, default=200_000, help="inputs of each format")
    parser.add_argument("--seconds", type=float, default=3600.0, help="most time of each format")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs")
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz-findings"), help="where findings are kept"
    )
    chosen = parser.parse_args()
    if set(chosen.formats) - set(TARGETS):
        parser.error(f"formats are {', '.join(TARGETS)}")

    # The processes are forked: no thread may hold a lock then.
    torch.set_num_threads(1)
    total = 0
    for name in chosen.formats or TARGETS:
        began = time.monotonic()
        tally, found = fuzz(name, chosen.count, chosen.seconds, chosen.seed, chosen.out)
        total += found
        apart = f", {tally['crashes apart']} crashes kept apart" if tally["crashes apart"] else ""
        print(
            f"{name}: {tally['inputs']} inputs, {tally['refused']} refused{apart}, {found} findings, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())

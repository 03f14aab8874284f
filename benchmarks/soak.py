"""Breaks runs on purpose, again and again, and checks that nothing is lost: `make soak`, docs/RELIABILITY.md.

Each round starts a short run and does something to it: SIGKILL at a random moment or while a file is being written,
SIGTERM, SIGINT, SIGHUP, a limit on the size of files, a folder that is deleted, a second run in the same folder, a
flipped bit in the newest checkpoint. Then the run is resumed, perhaps broken again, and at last left alone. What must
hold after each round: no traceback, the exit code that is promised, no half-written file, no unfinished file left
behind, and a scene of the same bytes as that of a run which nothing ever happened to.

Runs are forks of this process, which has imported the program and done nothing with it, so that faults fall into the
runs and not into their imports.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

import vlm3d_gs.pipeline  # noqa: F401  imported before the forks
from vlm3d_gs.cli import app
from vlm3d_gs.core.errors import CheckpointError
from vlm3d_gs.core.files import TEMPORARY
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.runs.checkpoint import load_checkpoint
from vlm3d_gs.runs.folder import CHECKPOINT, CONFIG, METRICS, MOVING, NEW, OLD, PREVIOUS
from vlm3d_gs.runs.log import write_json

PROMPT = "a red cube"
SETTINGS = (
    "critic.enabled=false",
    "scene.n_init=300",
    "train.steps=12",
    "train.checkpoint_every=0.25",
    "train.preview_every=0.25",
    "export.turntable_s=0.2",
    "export.turntable_px=64",
)
PATIENCE_S = 400.0
"""A run that takes longer hangs."""
POLL_S = 0.0005
KILLED = -signal.SIGKILL


class LostError(Exception):
    """A promise was broken."""


@dataclass
class Run:
    """A run as a child process."""

    out: Path
    log: Path
    pid: int
    began: float = field(default_factory=time.monotonic)

    def wait(self) -> int:
        """Return the exit code, negative for a signal."""
        while time.monotonic() - self.began < PATIENCE_S:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(20 * POLL_S)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise LostError("a run hangs")

    def is_over(self) -> bool:
        """Return whether it has ended, without collecting it."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def until(self, seconds: float, condition: Callable[[], bool] = lambda: False) -> None:
        """Wait so long, until the condition holds, or until the run is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not condition() and not self.is_over():
            time.sleep(POLL_S)


def start(out: Path, *options: str, most_bytes: int | None = None) -> Run:
    """Start a run; `most_bytes` limits the size of the files that it writes."""
    log = out.with_suffix(".log")
    arguments = ["generate", PROMPT, "--out", str(out), "--export", "ply,sheet,mp4", *options]
    if "--resume" not in options:
        arguments += [word for setting in SETTINGS for word in ("--set", setting)]

    pid = os.fork()
    if pid:
        return Run(out, log, pid)
    code = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        app(arguments, prog_name="vlm3d-gs")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        with contextlib.suppress(OSError):
            os.write(2, traceback.format_exc().encode())
        code = 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def check_files(out: Path) -> None:
    """Require that whatever has its final name is whole."""
    for path in [out / CONFIG, out / "summary.json"]:
        if path.is_file():
            json.loads(path.read_text())
    if (out / METRICS).is_file():
        for line in (out / METRICS).read_text().splitlines():
            json.loads(line)
    for path in (out / CHECKPOINT, out / PREVIOUS):
        if path.is_file():
            load_checkpoint(path)
    if (out / "scene.ply").is_file():
        read_splat(out / "scene.ply")
    for path in [*out.glob("*.png"), *out.glob("previews/step_*.png")]:
        if not path.name.startswith(TEMPORARY):
            with Image.open(path) as picture:
                picture.load()


def check_said(run: Run, code: int, allowed: tuple[int, ...]) -> None:
    """Require the promised exit code, and no traceback."""
    said = run.log.read_text(errors="replace")
    if "Traceback" in said:
        raise LostError(f"a traceback: {said[-2000:]}")
    if code not in allowed:
        raise LostError(f"exit code {code}, not one of {allowed}: {said[-500:]}")


def kill(run: Run, chance: random.Random, length_s: float) -> tuple[int, ...]:
    """SIGKILL at a random moment."""
    run.until(chance.uniform(0.0, 1.1) * length_s)
    with contextlib.suppress(ProcessLookupError):
        os.kill(run.pid, signal.SIGKILL)
    return (KILLED, 0)


def kill_in_write(run: Run, chance: random.Random, length_s: float) -> tuple[int, ...]:
    """SIGKILL while an unfinished file is there."""
    run.until(chance.uniform(0.0, 1.0) * length_s)

    def writes() -> bool:
        places = (run.out, run.out / "previews", run.out / NEW)
        return any(next(place.glob(f"{TEMPORARY}*"), None) for place in places)

    run.until(length_s, writes)
    with contextlib.suppress(ProcessLookupError):
        os.kill(run.pid, signal.SIGKILL)
    return (KILLED, 0)


def ask_to_end(run: Run, chance: random.Random, length_s: float) -> tuple[int, ...]:
    """SIGTERM, SIGINT or SIGHUP at a random moment."""
    number = chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    run.until(chance.uniform(0.0, 1.1) * length_s)
    with contextlib.suppress(ProcessLookupError):
        os.kill(run.pid, number)
    # The signal itself where it came before the program could catch it, or after it was done.
    return (128 + number, -number, 0)


def delete_folder(run: Run, chance: random.Random, length_s: float) -> tuple[int, ...]:
    """The folder is deleted under a run; the run goes on, and writes it again."""
    run.until(chance.uniform(0.2, 0.9) * length_s, lambda: False)
    shutil.rmtree(run.out, ignore_errors=True)
    return (0, 2)


def second_run(run: Run, chance: random.Random, length_s: float) -> tuple[int, ...]:
    """Another run is started into the same folder: one of them is refused, the other undisturbed."""
    run.until(chance.uniform(0.2, 0.7) * length_s, (run.out / CONFIG).is_file)
    late = start(run.out.with_name("late"), "--out", str(run.out), "--overwrite")
    if not run.is_over():
        check_said(late, late.wait(), (2, 0))
    else:
        late.wait()
    return (0,)


def flip_bit(out: Path, chance: random.Random) -> None:
    """Flip a random bit of the newest checkpoint."""
    path = out / CHECKPOINT
    if path.is_file() and (out / PREVIOUS).is_file():
        data = bytearray(path.read_bytes())
        place = chance.randrange(8 * len(data))
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(data))
        with contextlib.suppress(CheckpointError):
            load_checkpoint(path)
            raise LostError(f"bit {place} of a checkpoint was flipped, and nobody noticed")


FAULTS = {
    "SIGKILL at a random moment": kill,
    "SIGKILL during a write": kill_in_write,
    "SIGTERM, SIGINT, SIGHUP": ask_to_end,
    "limit on the size of files": None,
    "folder deleted": delete_folder,
    "second run in the folder": second_run,
    "flipped bit in a checkpoint": kill,
    "SIGKILL of a run that overwrites": kill,
}


def break_once(name: str, out: Path, chance: random.Random, length_s: float, resume: bool) -> None:
    """Start or resume a run and do to it what the fault's name says."""
    options = ["--resume"] if resume else []
    if name == "SIGKILL of a run that overwrites" and not resume:
        options = ["--overwrite"]
    fault = FAULTS[name]
    if fault is None:
        run = start(out, *options, most_bytes=int(10 ** chance.uniform(2.0, 6.0)))
        allowed: tuple[int, ...] = (0, 1, 2)
    else:
        run = start(out, *options)
        allowed = fault(run, chance, length_s)
    check_said(run, run.wait(), allowed)
    check_files(out)
    if name == "flipped bit in a checkpoint":
        flip_bit(out, chance)


def how_to_go_on(out: Path) -> list[str]:
    """Return the option with which a user goes on."""
    if (out / CHECKPOINT).is_file() or (out / PREVIOUS).is_file():
        return ["--resume"]
    moved = any((out / name / CONFIG).is_file() for name in (".", OLD, MOVING))
    return ["--overwrite"] if moved else []


def steps_at_risk(out: Path) -> int:
    """Return how many steps of the record are in no checkpoint: what a crash has lost."""
    done = 0
    if (out / METRICS).is_file():
        rows = (out / METRICS).read_text().splitlines()
        done = json.loads(rows[-1])["step"] if rows else 0
    for path in (out / CHECKPOINT, out / PREVIOUS):
        with contextlib.suppress(CheckpointError):
            return max(0, done - load_checkpoint(path).step)
    return done


def play(name: str, folder: Path, reference: str, length_s: float, seed: int) -> dict[str, int]:
    """Play one round and return what was counted; raise LostError if a promise was broken."""
    chance = random.Random(seed)
    out = folder / "run"
    counted = Counter(faults=0, steps_lost=0)

    if name == "SIGKILL of a run that overwrites":
        shutil.copytree(folder.parent / "reference", out)
    resume = False
    for _ in range(chance.randint(1, 3)):
        break_once(name, out, chance, length_s, resume)
        counted["faults"] += 1
        counted["steps_lost"] = max(counted["steps_lost"], steps_at_risk(out))
        resume = how_to_go_on(out) == ["--resume"]
        if not resume:
            break
        if _is_whole(out, reference):
            return counted

    run = start(out, *how_to_go_on(out))
    code = run.wait()
    # Nothing may have been left to do.
    complete = code == 2 and "Use more --steps" in run.log.read_text()
    check_said(run, 0 if complete else code, (0,))
    check_files(out)
    if left := [path.name for path in out.rglob(f"{TEMPORARY}*")]:
        raise LostError(f"unfinished files are left: {left}")
    if not _is_whole(out, reference):
        raise LostError("the scene differs from that of an undisturbed run")
    return counted


def _is_whole(out: Path, reference: str) -> bool:
    names = ("summary.json", "sheet.png", "turntable.mp4", "scene.ply")
    return all((out / name).is_file() for name in names) and digest(out) == reference


def digest(out: Path) -> str:
    """Return the checksum of a run's scene."""
    return hashlib.sha256((out / "scene.ply").read_bytes()).hexdigest()


@contextlib.contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    """Provide an empty folder."""
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="vlm3d-gs-soak-") as folder:
        yield Path(folder)


def main() -> int:
    """Play rounds until the time is over; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--keep", type=Path, help="a new folder for the runs, kept")
    chosen = parser.parse_args()
    end = time.monotonic() + 60.0 * chosen.minutes

    table: dict[str, Counter[str]] = {name: Counter() for name in FAULTS}
    broken = []
    with workplace(chosen.keep) as place:
        began = time.monotonic()
        run = start(place / "reference")
        check_said(run, run.wait(), (0,))
        reference, length_s = digest(place / "reference"), time.monotonic() - began

        seed = chosen.seed
        while time.monotonic() < end:
            name = tuple(FAULTS)[seed % len(FAULTS)]
            folder = place / f"{seed}"
            folder.mkdir()
            table[name]["rounds"] += 1
            try:
                counted = play(name, folder, reference, length_s, seed)
                table[name]["faults"] += counted["faults"]
                table[name]["most_steps_lost"] = max(
                    table[name]["most_steps_lost"], counted["steps_lost"]
                )
                if chosen.keep is None:
                    shutil.rmtree(folder)
            except Exception as error:
                table[name]["broken"] += 1
                broken.append({"fault": name, "seed": seed, "what": f"{error!r:.3000}"})
                print(f"BROKEN by {name}, --seed {seed}: {error}", flush=True)
            seed += 1

    for name, row in table.items():
        print(
            f"{name}: {row['rounds']} rounds, {row['faults']} faults, {row['broken']} broken, at most "
            f"{row['most_steps_lost']} of 12 steps to repeat"
        )
    if chosen.json is not None:
        write_json(chosen.json, {"minutes": chosen.minutes, "faults": table, "broken": broken})
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

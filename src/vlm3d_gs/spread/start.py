"""Starts the processes that share a run, watches them, and ends them with it.

Each is a program of its own, `vlm3d_gs.app.follower`, that reads one line of JSON: the run, its number, where to meet.
A closed input tells it that the run is over, so none outlives the process that the user started.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vlm3d_gs.config import Config, to_dict
from vlm3d_gs.core.errors import DeviceError, ProcessError
from vlm3d_gs.spread.ranks import Ranks, RunLeftError, join

READY = b"ready\n"
POLL_S = 0.05
PATIENCE_S = 10.0
"""How long the others may take to end by themselves."""
LAST_RESORT_S = 30.0
"""After a death, how long this process may go on without noticing: on a GPU it may wait for the dead one for ever."""
LAST_WORDS = 300
"""Letters of a process's last line that an error repeats."""


@dataclass
class Team:
    """The processes of a run, as the one that the user started sees them."""

    ranks: Ranks
    """Their numbers and exchanges."""
    device: torch.device
    """Of this process."""
    threads: int
    """Of this process, when it is alone."""
    followers: Followers | None = None
    """The other processes; None if there are none."""

    @contextmanager
    def together(self, stop_requested: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
        """Compute together inside the block, until `part`; yield whether to stop, which all know at the same step.

        Raises:
            ProcessError: another process ended.
        """
        followers, ranks = self.followers, self.ranks
        ranks.asked_to_stop = stop_requested
        if followers is None:
            yield stop_requested
            return

        followers.wait_until_ready()
        ranks.connect(followers.meeting, self.device)
        try:
            with followers.watched():
                yield ranks.should_stop
        except RunLeftError as error:
            raise ProcessError(
                "Another process of this run left it before its end. --resume goes on from the last checkpoint."
            ) from error
        finally:
            self.part()

    def part(self) -> None:
        """Compute alone from now on, with all threads; the others end."""
        if self.followers is not None:
            self.ranks.leave()
            self.followers.end()
            torch.set_num_threads(self.threads)


@contextmanager
def several_processes(
    config: Config, device: torch.device, folder: Path, kind: str, **work: Any
) -> Iterator[Team]:
    """Start the other processes of a run, if it has any, and end them with the block.

    Models that are built inside the block are divided among the processes, which share this one's threads.

    Args:
        config: the run; `processes` says how many.
        device: of the run; on CUDA each process gets the next card.
        folder: where this process writes.
        kind: of the run: `whole` or `scene`.
        work: what else `app.follower.follow` must know, as plain data.

    Raises:
        DeviceError: there are fewer cards than processes.
    """
    size = config.processes
    threads = torch.get_num_threads()
    if size == 1:
        yield Team(Ranks(), device, threads)
        return

    devices = _devices(device, size)
    share = max(1, threads // size)
    with TemporaryDirectory(prefix="vlm3d-gs-") as place:
        jobs = [
            {
                **work,
                "kind": kind,
                "config": to_dict(replace(config, device=str(own))),
                "size": size,
                "threads": share,
                "folder": str(folder),
            }
            for own in devices
        ]
        followers = Followers(jobs[1:], Path(place))
        torch.set_num_threads(share)
        try:
            with join(Ranks(0, size, followers.check)) as ranks:
                yield Team(ranks, devices[0], threads, followers)
        finally:
            torch.set_num_threads(threads)
            followers.kill()


def _devices(device: torch.device, size: int) -> list[torch.device]:
    """Return the device of each process: consecutive cards, or the CPU for all."""
    if device.type != "cuda":
        return [device] * size
    first, there = device.index or 0, torch.cuda.device_count()
    if first + size > there:
        raise DeviceError(
            f"processes={size} on {device} need {size} CUDA devices from number {first} on, but torch sees {there}. "
            f"Use at most processes={max(1, there - first)}."
        )
    return [torch.device("cuda", first + rank) for rank in range(size)]


class Followers:
    """Processes 1 and up."""

    def __init__(self, jobs: list[dict[str, Any]], folder: Path) -> None:
        """Start them.

        Args:
            jobs: what each is told.
            folder: for what they say, and for the file by which they meet.
        """
        self.meeting, self._is_over = folder / "meeting", threading.Event()
        self._logs = [folder / f"process-{rank}.log" for rank in range(1, len(jobs) + 1)]
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank, (job, path) in enumerate(zip(jobs, self._logs, strict=True), 1):
            with path.open("wb") as log:
                # A session of its own: Ctrl-C in the terminal is for the first process, which tells the others.
                process = subprocess.Popen(
                    [sys.executable, "-m", "vlm3d_gs.app.follower"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
            self._processes.append(process)
            assert process.stdin is not None
            told = {**job, "rank": rank, "meeting": str(self.meeting)}
            with suppress(OSError):  # one that is gone already is noticed by `check`
                process.stdin.write(json.dumps(told).encode() + b"\n")
                process.stdin.flush()

    def wait_until_ready(self) -> None:
        """Wait until all have loaded their models.

        Raises:
            ProcessError: one ended.
        """
        for process in self._processes:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            heard = b""
            while READY not in heard:
                self.check()
                with suppress(BlockingIOError):
                    heard += os.read(process.stdout.fileno(), len(READY))
                time.sleep(POLL_S)

    def check(self) -> None:
        """Raise `ProcessError` if one has ended."""
        for rank, process in enumerate(self._processes, 1):
            code = process.poll()
            if code is not None:
                raise ProcessError(self._obituary(rank, code))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside the block, see to it that this process ends as well when another does, even if it hears nothing."""
        is_over = self._is_over

        def watch() -> None:
            while not is_over.wait(POLL_S * 10):
                try:
                    self.check()
                except ProcessError as error:
                    if is_over.wait(LAST_RESORT_S):
                        return
                    sys.stderr.write(f"error: {error}\n")
                    sys.stderr.flush()
                    self.kill()
                    os._exit(1)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def end(self) -> None:
        """Let all end, who know by now that the run is over."""
        self._is_over.set()
        ends = time.monotonic() + PATIENCE_S
        for process in self._processes:
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, ends - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End all that are still there."""
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def _obituary(self, rank: int, code: int) -> str:
        """Return why a process is gone, from its exit code and its last line."""
        how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        lines = self._logs[rank - 1].read_text(encoding="utf-8", errors="replace").split("\n")
        words = next((line.strip() for line in reversed(lines) if line.strip()), "")
        said = f": {words.removeprefix('error: ')[:LAST_WORDS]}" if words else "."
        return f"Process {rank} of {len(self._processes) + 1} of this run ended {how}{said}"

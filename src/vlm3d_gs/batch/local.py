"""Workers on this machine: processes that the driver starts, watches, and replaces when they crash or hang.

Processes and not threads, so that a segmentation fault, the kernel's memory killer or an endless loop costs one prompt;
plain pipes with JSON lines and not `multiprocessing`, so that nothing is pickled and a dead worker is an end of file.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, BinaryIO

from vlm3d_gs.batch.driver import Event, Guard, Job, Tell
from vlm3d_gs.batch.items import Item
from vlm3d_gs.batch.outcome import Outcome, failure
from vlm3d_gs.core.errors import SetupError
from vlm3d_gs.core.files import make_folder

LOGS = "logs"
POLL_S = 0.2
GRACE_S = 120.0
"""How long workers may take to save what they do after a stop is requested."""
LAST_BREATH_S = 5.0
"""Between the end of a process's output and its own."""
MOST_STARTS = 3
"""So many workers in a row that end before they are ready end the batch."""
MOST_MEMORY = 0.8
"""Share of the machine's memory that its workers may have together; one that has more than its part is replaced between
two prompts."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker runs."""

    device: str
    """As the setting `device`."""
    threads: int = 0
    """Of its arithmetic; 0 is the machine's default."""


class LocalDriver:
    """Makes items in processes of this machine.

    Args:
        places: one for each worker.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = list(places)

    def run(
        self, items: Sequence[Item], job: Job, tell: Tell, stop_requested: Callable[[], bool]
    ) -> None:
        """As `driver.Driver.run`."""
        places = self._places[: len(items)]
        self._run(places, _Session(job, tell, deque(items)), stop_requested)

    def serve(
        self,
        feed: SimpleQueue[Item],
        job: Job,
        tell: Tell,
        stop_requested: Callable[[], bool],
    ) -> None:
        """Make whatever arrives, in the order of its arrival, until a stop is requested.

        Args:
            feed: filled by other threads.
            job: what the workers are told.
            tell: as in `run`, called in this thread.
            stop_requested: items in progress are saved; what waits in the feed stays there.

        Raises:
            Vlm3dGsError: as in `run`.
        """
        self._run(self._places, _Session(job, tell, deque(), feed), stop_requested)

    @staticmethod
    def _run(
        places: Sequence[Place], session: _Session, stop_requested: Callable[[], bool]
    ) -> None:
        try:
            session.work(places, stop_requested)
        finally:
            session.kill()


class _Session:
    """One call of `LocalDriver.run`, or of `serve` with a feed."""

    def __init__(
        self, job: Job, tell: Tell, waiting: deque[Item], feed: SimpleQueue[Item] | None = None
    ) -> None:
        self._job, self._tell, self._waiting, self._feed = job, tell, waiting, feed
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._tries: dict[str, int] = {}
        self._deaths = 0
        self._guard = Guard()
        self._memory_mib = float("inf")

    def work(self, places: Sequence[Place], stop_requested: Callable[[], bool]) -> None:
        """Go on until nothing is left, or a stop was requested and everything is saved."""
        self._memory_mib = _machine_mib() * MOST_MEMORY / max(len(places), 1)
        self._workers = [_Worker(f"w{n}", place, self._job) for n, place in enumerate(places)]
        for worker in self._workers:
            self._start(worker)

        ends: float | None = None
        while any(worker.process is not None for worker in self._workers):
            if ends is None and stop_requested():
                ends = time.monotonic() + GRACE_S
                self._waiting.clear()
                self._feed = None
                for worker in self._workers:
                    worker.ask_to_stop()
            self._take_from_feed()
            if ends is not None and time.monotonic() > ends:
                return

            for key, _ in self._selector.select(POLL_S):
                self._hear(key.data, stopping=ends is not None)
            for worker in self._workers:
                if worker.process is not None and worker.silent_s() > self._job.timeout_s:
                    self._died(worker, "hang", stopping=ends is not None)

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.kill()

    def _take_from_feed(self) -> None:
        """Give idle workers what has arrived; the rest stays in the feed, where its length is known."""
        if self._feed is None:
            return
        for worker in self._workers:
            if worker.is_idle and not self._feed.empty():
                self._waiting.append(self._feed.get())
                self._give(worker)

    def _start(self, worker: _Worker) -> None:
        self._selector.register(worker.start(), selectors.EVENT_READ, worker)

    def _hear(self, worker: _Worker, *, stopping: bool) -> None:
        """Take what a worker has said."""
        messages = worker.read()
        if messages is None:
            self._died(worker, "crash", stopping=stopping)
            return
        for message in messages:
            if message["event"] == "ready":
                self._deaths = 0
                self._give(worker)
            elif message["event"] == "step" and worker.item is not None:
                step, steps = int(message["step"]), int(message["steps"])
                self._tell(Event("step", worker.item, worker.name, step, steps))
            elif message["event"] == "end":
                self._ended(worker, Outcome.from_plain(message["outcome"]))
                if worker.process is not None:
                    self._next(worker, message.get("rss_mib"))

    def _next(self, worker: _Worker, rss_mib: float | None) -> None:
        """Give a worker its next item, or replace it if its memory has grown too much."""
        if self._waiting and rss_mib is not None and rss_mib > self._memory_mib:
            text = f"{worker.name} has {rss_mib:.0f} MiB and is replaced"
            self._tell(Event("note", text=text))
            self._end(worker)
            self._start(worker)
        else:
            self._give(worker)

    def _give(self, worker: _Worker) -> None:
        if not self._waiting and self._feed is not None:
            return
        if not self._waiting:
            # It closes its output when it is done, which is the last that is heard of it.
            worker.let_go()
            return
        item = self._waiting.popleft()
        self._tries[item.id] = self._tries.get(item.id, 0) + 1
        self._tell(Event("begin", item, worker.name))
        worker.give(item)

    def _ended(self, worker: _Worker, outcome: Outcome) -> None:
        item, worker.item = worker.item, None
        if item is None:
            return
        outcome = replace(outcome, tries=self._tries[item.id])
        self._tell(Event("end", item, worker.name, outcome=outcome))
        self._guard(outcome)

    def _died(self, worker: _Worker, kind: str, *, stopping: bool) -> None:
        """Account for a worker that is gone, or hangs, and start another if there is work for it."""
        item, silent_s, was_ready, let_go = (
            worker.item,
            worker.silent_s(),
            worker.ready,
            worker.is_let_go,
        )
        code = self._end(worker, patience_s=LAST_BREATH_S if kind == "crash" else 0.0)
        if item is not None:
            reason = worker.obituary(code) if kind == "crash" else _hangs(silent_s)
            self._lost(worker, item, kind, reason, stopping=stopping)
        elif not was_ready and not stopping:
            self._deaths += 1
            if self._deaths >= MOST_STARTS:
                raise SetupError(
                    f"{MOST_STARTS} workers in a row ended before they were ready. The last words of "
                    f"{worker.log}:\n{worker.last_words()}"
                )
        wanted = bool(self._waiting) or self._feed is not None
        if wanted and not stopping and not (let_go and item is None):
            self._start(worker)

    def _lost(self, worker: _Worker, item: Item, kind: str, reason: str, *, stopping: bool) -> None:
        """Try an item again whose worker is gone, or give it up."""
        tries = self._tries[item.id]
        if stopping:
            outcome = failure(item, "", "interrupted", worker.busy_s(), status="stopped")
        elif tries < self._job.tries:
            text = f"{item.id}: {reason}; it is tried again"
            self._tell(Event("note", text=text))
            self._waiting.appendleft(item)
            return
        else:
            outcome = failure(item, kind, reason, worker.busy_s())
        worker.item = item
        self._ended(worker, outcome)

    def _end(self, worker: _Worker, patience_s: float = 0.0) -> int:
        with suppress(KeyError, ValueError):
            if worker.output is not None:
                self._selector.unregister(worker.output)
        return worker.kill(patience_s)


class _Worker:
    """A process, and what it is doing."""

    def __init__(self, name: str, place: Place, job: Job) -> None:
        self.name, self._place, self._job = name, place, job
        self.log = job.out / LOGS / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.item: Item | None = None
        self.ready = self.is_let_go = False
        self.output: BinaryIO | None = None
        self._heard = self._given = time.monotonic()
        self._rest = b""

    def start(self) -> BinaryIO:
        """Start the process and return its output."""
        make_folder(self.log.parent)
        settings = {
            "engine": self._job.engine,
            "device": self._place.device,
            "offline": self._job.offline,
            "threads": self._place.threads,
            "shared": self._job.shared.plain(),
            "out": str(self._job.out),
            "store": self._job.store,
        }
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the driver, which asks its workers.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vlm3d_gs.batch.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        self.output = self.process.stdout  # type: ignore[assignment]
        os.set_blocking(self.process.stdout.fileno(), False)
        self.item, self.ready, self.is_let_go, self._rest = None, False, False, b""
        self._heard = time.monotonic()
        self._write(settings)
        assert self.output is not None
        return self.output

    def read(self) -> list[dict[str, Any]] | None:
        """Return new messages; None at the end of the process."""
        assert self.output is not None
        try:
            data = os.read(self.output.fileno(), 1 << 20)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._heard = time.monotonic()
        messages = [json.loads(line) for line in lines]
        self.ready = self.ready or any(each["event"] == "ready" for each in messages)
        return messages

    def give(self, item: Item) -> None:
        """Have an item made."""
        self.item = item
        self._given = self._heard = time.monotonic()
        self._write(item.plain())

    def let_go(self) -> None:
        """Tell the process that nothing more comes."""
        self.is_let_go = True
        self._write_line(b"end\n")

    def ask_to_stop(self) -> None:
        """Have the process save what it does, and end."""
        if self.process is not None:
            with suppress(OSError):
                self.process.send_signal(signal.SIGTERM)

    def kill(self, patience_s: float = 0.0) -> int:
        """End the process and what it has started; return its exit code, negative for a signal.

        Args:
            patience_s: how long it may take to end by itself, so that its own exit code is seen.
        """
        process, self.process = self.process, None
        if process is None:
            return 0
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
        if not self.is_let_go and process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self.item = None
        try:
            return process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for an item."""
        alive = self.process is not None and self.ready and not self.is_let_go
        return alive and self.item is None

    def silent_s(self) -> float:
        """Return how long nothing was heard of it; 0 while it has nothing to do."""
        busy = self.item is not None or not self.ready or self.is_let_go
        return time.monotonic() - self._heard if busy else 0.0

    def busy_s(self) -> float:
        """Return how long it has been at its last item."""
        return time.monotonic() - self._given

    def obituary(self, code: int) -> str:
        """Return why the process is gone, from its exit code."""
        if code >= 0:
            return f"its worker ended with exit code {code}; see {self.log}"
        name = signal.Signals(-code).name
        hint = ", as the kernel does when memory runs out" if code == -signal.SIGKILL else ""
        return f"its worker was ended by {name}{hint}; see {self.log}"

    def last_words(self) -> str:
        """Return the end of its log."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")[-1000:].strip()
        except OSError:
            return ""

    def _write(self, data: dict[str, Any]) -> None:
        self._write_line(json.dumps(data).encode() + b"\n")

    def _write_line(self, line: bytes) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        # A process that is gone is noticed by the end of its output.
        with suppress(OSError):
            self.process.stdin.write(line)
            self.process.stdin.flush()


def _hangs(silent_s: float) -> str:
    return f"its worker said nothing for {silent_s:.0f} s and was ended (--timeout)"


def _machine_mib() -> float:
    """Return the memory of this machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (ValueError, OSError, AttributeError):
        return float("inf")

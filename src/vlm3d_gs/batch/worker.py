"""A worker: a process that keeps an engine and makes one asset after the other. `python -m vlm3d_gs.batch.worker`.

It reads JSON lines from standard input, the first of them its settings, then items; and writes JSON lines to standard
output: `ready`, `step`, `end`. Whatever libraries print goes to standard error. It ends when its input does. A signal
ends it after the current step, with a checkpoint.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from vlm3d_gs.batch.engine import Engine, load_engine
from vlm3d_gs.batch.items import Item, Shared
from vlm3d_gs.batch.outcome import Outcome, failure, read_sidecar, write_sidecar
from vlm3d_gs.core.errors import OUT_OF_MEMORY, Vlm3dGsError, is_out_of_memory
from vlm3d_gs.core.files import make_folder
from vlm3d_gs.runs.interrupt import StopRequest, stop_requests

BEAT_S = 1.0
"""Least time between two messages about steps."""
POLL_S = 0.2
FIRST_TO_KILL = b"500"
"""For the kernel, which should rather end a worker than the driver if memory runs out."""

Message = dict[str, Any]
Send = Callable[[Message], None]


def main() -> None:
    """Serve until the input ends or a signal comes."""
    out = _keep_output()
    faulthandler.enable(sys.stderr)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(FIRST_TO_KILL)

    def send(message: Message) -> None:
        # A driver that is gone hears nothing more, and the end of the input ends this process.
        with suppress(OSError):
            out.write(json.dumps(message, allow_nan=False).encode() + b"\n")
            out.flush()

    settings = json.loads(sys.stdin.buffer.readline())
    with stop_requests() as stop_requested:
        engine = prepare(settings)
        send({"event": "ready", "pid": os.getpid()})
        serve(engine, settings, _read_tasks(stop_requested), send, stop_requested)


def prepare(settings: Mapping[str, Any]) -> Engine:
    """Return the engine that a driver asks for, with its threads set before any model is loaded.

    Args:
        settings: `engine`, `device`, `offline` and `threads` (0 leaves them alone).

    Raises:
        ConfigError: there is no such engine.
    """
    if settings["threads"] and settings["engine"] != "dry":
        from vlm3d_gs.batch.threads import use_threads

        use_threads(settings["threads"])
    return load_engine(settings["engine"], settings["device"], offline=settings["offline"])


def serve(
    engine: Engine,
    settings: Mapping[str, Any],
    tasks: queue.Queue[str | None],
    send: Send,
    stop_requested: StopRequest,
) -> None:
    """Make what comes in until None does, or a signal."""
    while not stop_requested():
        try:
            line = tasks.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if line is None:
            return

        item = Item.from_plain(json.loads(line))
        beat = _Beat(item.id, send, stop_requested)
        outcome = make_where(settings, engine, item, beat)
        send({"event": "end", "outcome": outcome.plain(), "rss_mib": resident_mib()})


def make_where(
    settings: Mapping[str, Any], engine: Engine, item: Item, beat: Callable[[int, int], bool]
) -> Outcome:
    """Make one asset where a driver wants it: in a folder, or in a store.

    Args:
        settings: `shared`, `out`, and `store`, which is empty or a URL.
        engine: makes it.
        item: the prompt.
        beat: as `make_asset`.
    """
    shared = Shared.from_plain(settings["shared"])
    if not settings["store"]:
        return make_asset(engine, item, shared, Path(settings["out"]), beat)

    from vlm3d_gs.batch.staging import make_in_store
    from vlm3d_gs.batch.store import Store

    store = Store(settings["store"])
    return make_in_store(make_asset, engine, item, shared, store, beat)


def make_asset(
    engine: Engine, item: Item, shared: Shared, out: Path, beat: Callable[[int, int], bool]
) -> Outcome:
    """Make one asset and its sidecar, or say why there is none.

    Args:
        engine: makes it.
        item: the prompt.
        shared: settings of the batch.
        out: folder of the batch.
        beat: called after each step; returns whether to stop.
    """
    began = time.monotonic()
    folder = out / item.folder
    try:
        # Another try, or a driver that was killed after the asset was there.
        done = read_sidecar(folder, item.content)
        if done is not None:
            return done
        make_folder(folder.parent)
        made = engine.make(item, shared, folder, beat)
        made = replace(made, folder=str(item.folder), seconds=round(time.monotonic() - began, 3))
        if made.status == "done":
            write_sidecar(folder, made)
        return made
    except KeyboardInterrupt:
        # A second signal, which waits for no step.
        return failure(item, "", "interrupted", time.monotonic() - began, status="stopped")
    except Exception as error:
        # One prompt must not take the others with it: even a mistake of ours is an outcome, with its traceback in the
        # worker's log.
        if not isinstance(error, Vlm3dGsError):
            sys.excepthook(type(error), error, error.__traceback__)
        text = OUT_OF_MEMORY if is_out_of_memory(error) else str(error)
        kind = type(error).__name__
        return failure(item, kind, text or kind, time.monotonic() - began)


class _Beat:
    """Tells the driver about steps, not too often."""

    def __init__(self, id: str, send: Send, stop_requested: Callable[[], bool]) -> None:
        self._id, self._send, self._stop_requested = id, send, stop_requested
        self._last = 0.0

    def __call__(self, step: int, steps: int) -> bool:
        now = time.monotonic()
        if now - self._last >= BEAT_S:
            self._last = now
            self._send({"event": "step", "id": self._id, "step": step, "steps": steps})
        return self._stop_requested()


def _read_tasks(stop_requested: StopRequest) -> queue.Queue[str | None]:
    """Return a queue of the lines of standard input, then None.

    A driver that dies closes the input: the asset in progress is then ended after its step, as by a signal.
    """
    tasks: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin.buffer:
            if line.strip() == b"end":
                tasks.put(None)
                return
            tasks.put(line.decode())
        stop_requested.number = stop_requested.number or 1

    threading.Thread(target=read, daemon=True).start()
    return tasks


def _keep_output() -> BinaryIO:
    """Return standard output for messages alone, and send everything else that is printed to standard error."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return out


def resident_mib() -> float | None:
    """Return the memory of this process; None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return None


if __name__ == "__main__":
    main()

"""Assets of a batch whose folder is behind a URL: each is made in a folder of this machine and sent when it is whole.

Whenever the run has saved a checkpoint, its folder is sent too, so that another machine can go on with it. The sidecar
goes last: an asset with it is whole, in the store as in a folder.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vlm3d_gs.batch.engine import Engine
from vlm3d_gs.batch.items import Item, Shared
from vlm3d_gs.batch.outcome import SIDECAR, Outcome, failure
from vlm3d_gs.batch.store import Store, StoredAssets, local_names
from vlm3d_gs.core.errors import Vlm3dGsError
from vlm3d_gs.core.files import writing

ROOMS = "vlm3d-gs-room-"
"""Names of folders of this machine in which assets are made."""
ALIVE = ".alive"
"""In such a folder, locked as long as its process lives."""
CHECKPOINTS = "checkpoint"
"""Names of checkpoints begin with this."""

Make = Callable[[Engine, Item, Shared, Path, Callable[[int, int], bool]], Outcome]


class Room:
    """A folder of this machine for runs in progress. Those of processes that were killed are removed."""

    def __init__(self) -> None:
        _remove_abandoned()
        with writing(tempfile.gettempdir()):
            self.path = Path(tempfile.mkdtemp(prefix=ROOMS))
            self._alive = FileLock(self.path / ALIVE)
            self._alive.acquire()

    def close(self) -> None:
        """Remove it."""
        self._alive.release()
        shutil.rmtree(self.path, ignore_errors=True)


def make_in_store(
    make: Make,
    engine: Engine,
    item: Item,
    shared: Shared,
    store: Store,
    beat: Callable[[int, int], bool],
) -> Outcome:
    """Make an asset here and send it, or go on with one that another machine began.

    Args:
        make: makes an asset in a folder, as `worker.make_asset`.
        engine: handed to it.
        item: the prompt.
        shared: settings of the batch.
        store: where the asset goes.
        beat: called after each step; returns whether to stop.
    """
    began = time.monotonic()
    room: Room | None = None
    try:
        done = StoredAssets(store, str(item.folder))(item, None)
        if done is not None:
            return done

        room = Room()
        folder = room.path / item.folder
        store.fetch(item.folder, folder)
        sender = _Sender(store, item, folder, beat)
        outcome = make(engine, item, shared, room.path, sender)
        if outcome.status == "done":
            sender.finish()
        elif outcome.status == "stopped":
            sender.save()
        return outcome
    except Vlm3dGsError as error:
        return failure(item, type(error).__name__, str(error), time.monotonic() - began)
    finally:
        if room is not None:
            room.close()


class _Sender:
    """Sends a run's folder whenever it has a new checkpoint; to be called after each step."""

    def __init__(
        self, store: Store, item: Item, folder: Path, beat: Callable[[int, int], bool]
    ) -> None:
        self._store, self._item, self._folder, self._beat = store, item, folder, beat
        self._sent = local_names(folder)

    def __call__(self, step: int, steps: int) -> bool:
        if self._checkpoints(local_names(self._folder)) != self._checkpoints(self._sent):
            self.save()
        return self._beat(step, steps)

    def save(self) -> None:
        """Send what has changed, checkpoints last: what they need is there before them."""
        now = local_names(self._folder)
        changed = [name for name, at in now.items() if self._sent.get(name) != at]
        for name in sorted(changed, key=_is_checkpoint):
            if name != SIDECAR:
                self._store.send(self._folder / name, f"{self._item.folder}/{name}")
        self._sent = now

    def finish(self) -> None:
        """Send the rest of a whole asset, then its sidecar, and remove what only an unfinished run needs."""
        self.save()
        prefix = f"{self._item.folder}/"
        self._store.send(self._folder / SIDECAR, f"{prefix}{SIDECAR}")
        for name in self._store.names(str(self._item.folder)):
            if name.removeprefix(prefix) not in self._sent:
                self._store.remove(name)

    @staticmethod
    def _checkpoints(names: dict[str, int]) -> dict[str, int]:
        return {name: at for name, at in names.items() if _is_checkpoint(name)}


def _is_checkpoint(name: str) -> bool:
    return name.rpartition("/")[2].startswith(CHECKPOINTS)


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{ROOMS}*"):
        with suppress(OSError, Timeout), FileLock(folder / ALIVE, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)

"""What makes one asset: the models, or a stand-in without any to try out everything around them.

An engine lives in one process and keeps what it loads from prompt to prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol

from vlm3d_gs.batch.items import Item, Shared
from vlm3d_gs.batch.outcome import Outcome, digests
from vlm3d_gs.core.errors import ConfigError

Beat = Callable[[int, int], bool]
"""Called with steps done and planned after each step; returns whether to stop, as after a signal."""

ENGINES: Mapping[str, str] = {
    "models": "vlm3d_gs.batch.models:ModelEngine",
    "dry": "vlm3d_gs.batch.engine:DryEngine",
}
"""Name -> module and class; others are given as `module:class`."""


class Engine(Protocol):
    """Makes assets one after the other."""

    def make(self, item: Item, shared: Shared, folder: Path, beat: Beat) -> Outcome:
        """Make an asset, or go on with one that was interrupted.

        Args:
            item: the prompt.
            shared: settings of the batch.
            folder: of the asset; its parent exists.
            beat: to be called after each step.

        Returns:
            An outcome that is `done` or `stopped`; its folder is filled in by the caller.

        Raises:
            Vlm3dGsError: the prompt cannot be made.
        """
        ...


def load_engine(name: str, device: str, *, offline: bool = False) -> Engine:
    """Return an engine.

    Args:
        name: of `ENGINES`, or `module:class` of one's own, called with device and offline.
        device: as the setting.
        offline: as the setting.

    Raises:
        ConfigError: there is none of that name.
    """
    place = ENGINES.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        raise ConfigError(
            f"Engine must be {', '.join(ENGINES)} or module:class, got {name[:60]!r}."
        )
    engine: Engine = getattr(import_module(module), attribute)(device=device, offline=offline)
    return engine


class DryEngine:
    """Makes a small file instead of a splat, the same for the same prompt and settings. Loads no model.

    Args:
        device: not used.
        offline: not used.
    """

    def __init__(self, *, device: str = "cpu", offline: bool = False) -> None:
        self.device, self.offline = device, offline

    def make(self, item: Item, shared: Shared, folder: Path, beat: Beat) -> Outcome:
        """Write a file that holds the hash of what was asked for."""
        folder.mkdir(exist_ok=True)
        path = folder / "dry.txt"
        text = f"{item.prompt}\n{item.content}\n"
        path.write_text(text + hashlib.sha256(text.encode()).hexdigest() + "\n", encoding="utf-8")

        stopped = beat(1, 1)
        return Outcome(
            item.id,
            item.prompt,
            item.seed,
            "stopped" if stopped else "done",
            0.0,
            files=digests(folder, [path]),
            steps=1,
            content=item.content,
        )

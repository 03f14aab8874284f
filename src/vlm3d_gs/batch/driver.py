"""What a driver is: it has a list of items made somewhere, and tells what happens.

The drivers: `local` (processes of this machine) and `cluster` (Ray).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from vlm3d_gs.batch.items import Item, Shared
from vlm3d_gs.batch.outcome import Outcome
from vlm3d_gs.core.errors import Vlm3dGsError, WriteError

EVERYWHERE = ("WriteError", "ModelError", "DeviceError", "MissingDependencyError", "ImportError")
"""Classes of errors that are not the prompt's: the next one would fail alike."""
ALIKE = 3
"""So many of them in a row end a batch."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all workers of a batch are told."""

    shared: Shared
    """Settings of the batch."""
    out: Path
    """Its folder; with a store, one of the driver's machine for manifest and logs."""
    engine: str = "models"
    """Of `engine.ENGINES`, or `module:class`."""
    offline: bool = False
    """Never contact the model hub."""
    timeout_s: float = 600.0
    """A worker that says nothing for so long hangs."""
    tries: int = 2
    """How often an item may bring its worker down before it has failed."""
    store: str = ""
    """URL that takes the folder's place; empty for none."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened."""

    kind: Literal["begin", "step", "end", "note"]
    """An item was begun, has done a step, has ended; or something for a person."""
    item: Item | None = None
    """Which one."""
    worker: str = ""
    """By whom."""
    step: int = 0
    """Steps done."""
    steps: int = 0
    """Steps planned."""
    outcome: Outcome | None = None
    """Of what has ended."""
    text: str = ""
    """For a person."""

    def plain(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        data: dict[str, Any] = {"event": self.kind}
        if self.item is not None:
            data |= {"id": self.item.id, "worker": self.worker}
        if self.kind == "step":
            data |= {"step": self.step, "steps": self.steps}
        if self.outcome is not None:
            data |= self.outcome.plain()
        return data | {"text": self.text} if self.text else data


Tell = Callable[[Event], None]


class Driver(Protocol):
    """Has items made."""

    def run(
        self, items: Sequence[Item], job: Job, tell: Tell, stop_requested: Callable[[], bool]
    ) -> None:
        """Make all items, or those that can be until a stop is requested.

        Args:
            items: in the order in which they are begun.
            job: what the workers are told.
            tell: called with each event, in the thread of the caller. One `end` for each item that was begun.
            stop_requested: no item is begun any more, and those in progress are saved.

        Raises:
            Vlm3dGsError: no worker can be started, or what failed would fail for every item.
        """
        ...


@dataclass
class Guard:
    """Notices when failures are not those of prompts: a full disk must not fail ten thousand of them."""

    alike: list[Outcome] = field(default_factory=list)
    """The last failures, as long as they are of this kind."""

    def __call__(self, outcome: Outcome) -> None:
        """Look at an outcome.

        Raises:
            Vlm3dGsError: the same trouble several times in a row.
        """
        if outcome.status != "failed" or outcome.kind not in EVERYWHERE:
            self.alike = []
            return
        self.alike.append(outcome)
        if len(self.alike) < ALIKE:
            return
        text = (
            f"{ALIKE} assets in a row failed for a reason that is not their prompts': {outcome.reason} "
            "Once that is mended, the same command with --retry-failed goes on."
        )
        if outcome.kind == "WriteError":
            raise WriteError(text)
        raise Vlm3dGsError(text)

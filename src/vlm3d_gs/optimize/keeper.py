"""Keeps a run from being lost: saves its state now and then, and goes back to the last one if numbers break."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from vlm3d_gs.config import Config, to_dict
from vlm3d_gs.core.errors import CheckpointError, ExportError, NotFiniteError
from vlm3d_gs.runs.checkpoint import Checkpoint, load_newest, save_checkpoint
from vlm3d_gs.runs.folder import FollowedFolder, RunFolder

MOST_RETRIES = 3
"""How often a run goes back before it ends."""
RETRY_RATE = 0.3
"""All learning rates are multiplied by this each time."""


class Kept(Protocol):
    """A run as something to save and to restore: `state.WholeRun`, or the objects of a scene."""

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def rate_factor(self) -> float:
        """Multiplies all learning rates."""

    def scale_rates(self, factor: float) -> None:
        """Set `rate_factor`."""

    def capture(self, meta: Mapping[str, Any]) -> Checkpoint:
        """Return the state, with facts about the run."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to what `capture` returned."""


class StateKeeper:
    """Saves the state of a run, and restores the last good one.

    Args:
        folder: where checkpoints are written; None writes none, and a `FollowedFolder` is only gone back to.
        run: what is saved.
        config: of the run; saved too, and a resumed run is held against it.
        tell: called with what the user should know.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        run: Kept,
        config: Config,
        *,
        tell: Callable[[str], None],
    ) -> None:
        self._folder, self._run, self._tell = folder, run, tell
        self._meta = {"settings": to_dict(config)}
        self._every_s = config.train.checkpoint_every_s
        self._saved_s = time.monotonic()
        self._retries = 0
        # A resumed run has a file to go back to, a new one only its first cloud.
        self._first = None if run.step > 0 and folder is not None else self._copy()

    @property
    def is_due(self) -> bool:
        """Whether too much time has passed since the last checkpoint."""
        return 0.0 < self._every_s <= time.monotonic() - self._saved_s

    def save(self) -> None:
        """Write a checkpoint; where the file system refuses, say so and go on.

        Raises:
            NotFiniteError: the state is broken, and not saved.
        """
        if self._folder is None or isinstance(self._folder, FollowedFolder):
            self._saved_s = time.monotonic()
            return
        found = self._capture()
        self._saved_s = time.monotonic()
        try:
            save_checkpoint(
                self._folder.checkpoint, step=found.step, tensors=found.tensors, meta=found.meta
            )
            self._folder.stand()
            self._first = None
        except ExportError as error:
            self._tell(f"warning: no checkpoint at step {found.step}: {error} The run goes on.")

    def go_back(self, error: NotFiniteError) -> None:
        """Restore the last good state, with smaller learning rates.

        Raises:
            NotFiniteError: it was the last time; the last good state is there nevertheless, and saved.
        """
        run, lost = self._run, self._run.step
        factor = run.rate_factor * RETRY_RATE
        run.restore(self._last_good(error))
        run.scale_rates(factor)
        self._retries += 1

        if self._retries > MOST_RETRIES:
            self.save()
            raise NotFiniteError(
                f"The scene became NaN or infinite after step {lost}, also with {MOST_RETRIES} times smaller learning "
                f"rates, so the run ended at its last good state, of step {run.step}. Continue from there with "
                "--resume, which makes the rates smaller still, or start anew with a lower optim.means_lr."
            ) from error
        self._tell(
            f"warning: the scene became NaN or infinite after step {lost}; back to step {run.step} with "
            f"{factor:.2g} times the learning rates ({self._retries} of {MOST_RETRIES} times)"
        )

    def _last_good(self, error: NotFiniteError) -> Checkpoint:
        if self._folder is not None:
            with suppress(CheckpointError):
                newest, _ = load_newest(self._folder.checkpoint)
                return newest
        if self._first is None:
            raise NotFiniteError(str(error)) from error
        # Restored tensors may be changed in place, and this state may be needed again.
        return _copied(self._first)

    def _copy(self) -> Checkpoint | None:
        """Return a copy of the present state in memory; None if it is broken already."""
        try:
            found = self._capture()
        except NotFiniteError:
            return None
        return _copied(found)

    def _capture(self) -> Checkpoint:
        return self._run.capture(self._meta)


def _copied(found: Checkpoint) -> Checkpoint:
    copies = {name: value.detach().cpu().clone() for name, value in found.tensors.items()}
    return Checkpoint(found.step, copies, found.meta)

"""Keeps a run from being lost: saves its state now and then, and goes back to the last one if numbers break."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from vlm3d_gs.config import Config, to_dict
from vlm3d_gs.core.errors import CheckpointError, ExportError, NotFiniteError
from vlm3d_gs.optimize.guidance import Guidance
from vlm3d_gs.optimize.state import TrainState, Watch, capture_state, restore_state
from vlm3d_gs.runs.checkpoint import Checkpoint, load_newest, save_checkpoint
from vlm3d_gs.runs.folder import RunFolder

MOST_RETRIES = 3
"""How often a run goes back before it ends."""
RETRY_RATE = 0.3
"""All learning rates are multiplied by this each time."""


class StateKeeper:
    """Saves the state of a run, and restores the last good one.

    Args:
        folder: where checkpoints are written; None writes none.
        state: of the run.
        guidances: whose own state is saved too.
        watch: likewise; None if there is none.
        config: the run; saved too, and a resumed run is held against it.
        tell: called with what the user should know.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        state: TrainState,
        guidances: Sequence[Guidance],
        watch: Watch | None,
        config: Config,
        *,
        tell: Callable[[str], None],
    ) -> None:
        self._folder, self._state, self._tell = folder, state, tell
        self._guidances, self._watch = guidances, watch
        self._meta = {"settings": to_dict(config)}
        self._every_s = config.train.checkpoint_every_s
        self._saved_s = time.monotonic()
        self._retries = 0
        # A resumed run has a file to go back to, a new one only its first cloud.
        self._first = None if state.step > 0 and folder is not None else self._copy()

    @property
    def is_due(self) -> bool:
        """Whether too much time has passed since the last checkpoint."""
        return 0.0 < self._every_s <= time.monotonic() - self._saved_s

    def save(self) -> None:
        """Write a checkpoint; where the file system refuses, say so and go on.

        Raises:
            NotFiniteError: the state is broken, and not saved.
        """
        if self._folder is None:
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
        state, lost = self._state, self._state.step
        factor = state.optimizer.rate_factor * RETRY_RATE
        restore_state(self._last_good(error), state, self._guidances, self._watch)
        state.optimizer.rate_factor = factor
        self._retries += 1

        if self._retries > MOST_RETRIES:
            self.save()
            raise NotFiniteError(
                f"The scene became NaN or infinite after step {lost}, also with {MOST_RETRIES} times smaller learning "
                f"rates, so the run ended at its last good state, of step {state.step}. Continue from there with "
                "--resume, which makes the rates smaller still, or start anew with a lower optim.means_lr."
            ) from error
        self._tell(
            f"warning: the scene became NaN or infinite after step {lost}; back to step {state.step} with "
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
        return capture_state(self._state, self._guidances, self._watch, self._meta)


def _copied(found: Checkpoint) -> Checkpoint:
    copies = {name: value.detach().cpu().clone() for name, value in found.tensors.items()}
    return Checkpoint(found.step, copies, found.meta)

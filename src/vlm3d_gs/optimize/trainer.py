"""The run: step after step, with what is logged, shown, watched and saved between them.

Knows the `Guidance` protocol and never a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from vlm3d_gs.config import Config
from vlm3d_gs.core.errors import ExportError, NotFiniteError
from vlm3d_gs.core.gaussians import Gaussians, validate
from vlm3d_gs.core.profiling import counting
from vlm3d_gs.optimize.densify import keep_mask
from vlm3d_gs.optimize.distill import distill_step
from vlm3d_gs.optimize.guidance import Guidance
from vlm3d_gs.optimize.keeper import StateKeeper
from vlm3d_gs.optimize.log_rows import LogRows
from vlm3d_gs.optimize.parts import loose_mask
from vlm3d_gs.optimize.reconstruct import Reconstruction, fit_step, reconstruct_step
from vlm3d_gs.optimize.state import TrainState, Watch, WholeRun
from vlm3d_gs.optimize.step import LEFT_OUT
from vlm3d_gs.optimize.targets import PixelFit
from vlm3d_gs.runs.folder import RunFolder
from vlm3d_gs.runs.log import RunLog

LEFT_OUT_COUNT = "pictures left out"
"""In `TrainState.counts`."""
MOST_BROKEN = 5
"""So many answers in a row that are not finite end a run."""


class Observer(Protocol):
    """Follows a run from outside, and may pause or end it."""

    def __call__(
        self, state: TrainState, scalars: Mapping[str, float], stop_requested: Callable[[], bool]
    ) -> bool:
        """Look at the run after a step.

        May block to pause the run, but only until `stop_requested` returns True (Ctrl-C).

        Args:
            state: read-only.
            scalars: logged by the step.
            stop_requested: returns whether the run is to end in any case.

        Returns:
            True to end the run here, as Ctrl-C does.
        """
        ...


def train(
    state: TrainState,
    config: Config,
    guidances: Sequence[Guidance],
    log: RunLog,
    *,
    reconstruction: Reconstruction | None = None,
    folder: RunFolder | None = None,
    show: Callable[[Gaussians, int], None] | None = None,
    watch: Watch | None = None,
    until: int | None = None,
    observe: Observer | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> bool:
    """Run to the end of the config's steps.

    What cannot be written on the way is said and tried again later; it does not end the run. If the scene becomes NaN
    or infinite, the run goes back to its last good state with smaller learning rates.

    Args:
        state: where to start; changed in place.
        config: the run.
        guidances: called in order at each step.
        log: receives scalars and progress.
        reconstruction: what the scene is fitted to before `reconstruct.until`; None distils from the start.
        folder: where checkpoints are written, at `train.checkpoint_every` and `train.checkpoint_every_s`; None writes
            none.
        show: called now and then with the scene and the number of steps done.
        watch: called at every `critic.watch.every` of the run with the same; what it returns is logged.
        until: pause after this step; None is the end of the run.
        observe: called after each step; may pause the run, or end it.
        stop_requested: returns whether to end after the present step, as `stop_requests` yields it.

    Returns:
        True when all steps were done, False when a signal, `until` or the observer stopped the run after a whole step.

    Raises:
        NotFiniteError: the scene became NaN or infinite again and again; `state` is the last good one.
    """
    steps, rows = config.train.steps, LogRows()
    last = steps if until is None else min(until, steps)
    keeper = StateKeeper(folder, WholeRun(state, guidances, watch), config, tell=log.message)

    stopped, broken, latest = False, False, dict[str, float]()
    with counting(state.counts):
        while state.step < last and not (stopped or stop_requested()):
            try:
                scalars = train_step(state, config, guidances, reconstruction)
                if watch is not None and is_mark(state.step, steps, config.critic.watch.every):
                    scalars |= watch(state.optimizer.gaussians.detach(), state.step)
                rows.add(state.step, scalars)

                # Numbers on a GPU are waited for once a round, unless somebody looks at each step or the state is
                # saved.
                due = stop_requested() or is_save_due(state.step, last, config, keeper)
                if due or observe is not None or state.step == last or rows.are_due(state):
                    for step, latest in rows.fetch(state):
                        broken = note_left_out(state, latest, step, log) or broken
                        log.scalars(step, latest)
                log.progress(state.step, steps, latest)
                stopped = observe is not None and observe(state, latest, stop_requested)
                stopped = stopped or broken
                if due or stopped or stop_requested():
                    keeper.save()
                if state.step == last:
                    validate(state.optimizer.gaussians)
            except NotFiniteError as error:
                keeper.go_back(error)
                rows = LogRows()
                log.rewind(state.step)
            else:
                _show_if_due(show, state, config, log)

    for step, row in rows.fetch(state):
        note_left_out(state, row, step, log)
        log.scalars(step, row)
    if state.step < last:
        log.message(f"stopped after step {state.step} of {steps}; exporting what is there")
    return ended(state, config)


def ended(state: TrainState, config: Config) -> bool:
    """Return whether all steps are done; if so, remove what the last scene should not have."""
    if state.step < config.train.steps:
        return False
    if config.densify.enabled:
        prune(state, config)
    return True


def is_save_due(step: int, last: int, config: Config, keeper: StateKeeper) -> bool:
    """Return whether a checkpoint is due after a step, `last` being that at which the loop pauses or ends."""
    train = config.train
    if step == last:
        return step < train.steps or train.checkpoint_every > 0.0 or train.checkpoint_every_s > 0.0
    return keeper.is_due or is_mark(step, train.steps, train.checkpoint_every)


def _show_if_due(
    show: Callable[[Gaussians, int], None] | None, state: TrainState, config: Config, log: RunLog
) -> None:
    train = config.train
    if show is None or not is_mark(state.step, train.steps, train.preview_every):
        return
    try:
        show(state.optimizer.gaussians.detach(), state.step)
    except ExportError as error:
        log.message(f"warning: no preview of step {state.step}: {error} The run goes on.")


def train_step(
    state: TrainState,
    config: Config,
    guidances: Sequence[Guidance],
    reconstruction: Reconstruction | None = None,
) -> dict[str, float | Tensor]:
    """Do one step, of whichever kind the run is at, and return its scalars; arguments as in `train`."""
    step, steps, settings = state.step, config.train.steps, config.reconstruct
    if reconstruction is None:
        return distill_step(state, config, guidances)
    if step < settings.until * steps:
        return reconstruct_step(state, config, reconstruction)

    # Each step of distillation is followed by fits; counted from the end, so that a run ends with them.
    fits = settings.fits_between if state.pool.targets else 0
    if (steps - 1 - step) % (fits + 1) < fits:
        return fit_step(state, config)
    began = math.ceil(settings.until * steps)
    return distill_step(state, config, guidances, since=max(began, step - fits))


def note_left_out(state: TrainState, scalars: dict[str, float], step: int, log: RunLog) -> bool:
    """Count the pictures that a step left out, since a network's answer about them was not finite.

    Args:
        state: its counts and its number of such steps in a row are updated.
        scalars: of the step; the numbers of pictures that were left out are removed where they are zero.
        step: the step.
        log: is told once.

    Returns:
        Whether that has happened too often in a row for the run to go on.
    """
    asked = {name: value for name, value in scalars.items() if name.endswith(f"/{LEFT_OUT}")}
    for name, value in asked.items():
        if not value:
            del scalars[name]
    asked.pop(f"{PixelFit.name}/{LEFT_OUT}", None)  # no network answers in a fit
    if not asked:
        return False

    count = int(sum(asked.values()))
    if not count:
        state.broken_in_a_row = 0
        return False

    if LEFT_OUT_COUNT not in state.counts:
        log.message(
            f"a network's answer was NaN or infinite in step {step}: {count} pictures are left out. Further ones "
            "are counted without a word; float32 or bfloat16 weights may help."
        )
    state.counts[LEFT_OUT_COUNT] = state.counts.get(LEFT_OUT_COUNT, 0) + count
    state.broken_in_a_row += 1
    if state.broken_in_a_row < MOST_BROKEN:
        return False

    log.message(
        f"a network's answer was NaN or infinite {MOST_BROKEN} times in a row; the run ends here, with a scene that "
        "none of them has touched"
    )
    return True


def prune(state: TrainState, config: Config) -> None:
    """Remove what densification would not keep, then loose parts; nothing is added."""
    scene = state.optimizer.gaussians.detach()
    source = keep_mask(scene, config.densify).nonzero()[:, 0]
    loose = loose_mask(scene.select(source), config.densify.part_gap, config.densify.part_share)
    source = source[~loose]

    state.optimizer.replace(
        scene.select(source), source, torch.zeros_like(source, dtype=torch.bool)
    )


def is_mark(step: int, steps: int, every: float) -> bool:
    """Return whether a multiple of `every` of the run was just passed, before its end."""
    if every <= 0.0 or step >= steps:
        return False
    return int(step / (every * steps) + 1e-9) > int((step - 1) / (every * steps) + 1e-9)

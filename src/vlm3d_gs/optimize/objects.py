"""The objects of a scene, made side by side: all take the same steps, and their pictures are drawn in one batch.

Each object keeps Gaussians, frame, prompt, statistics and pool of its own, so densification never takes a Gaussian from
one object to another, and an object becomes what a run of its own would have made of it, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from vlm3d_gs.config import Config
from vlm3d_gs.core.errors import NotFiniteError
from vlm3d_gs.core.gaussians import validate
from vlm3d_gs.core.profiling import counting
from vlm3d_gs.optimize.guidance import Guidance, Progress, Views
from vlm3d_gs.optimize.keeper import StateKeeper
from vlm3d_gs.optimize.log_rows import LogRows
from vlm3d_gs.optimize.reconstruct import Reconstruction, keep_pictures, plan_round
from vlm3d_gs.optimize.state import TrainState, capture_state, restore_state
from vlm3d_gs.optimize.targets import Chain, TargetSource
from vlm3d_gs.optimize.trainer import ended, is_mark, is_save_due, note_left_out, train_step
from vlm3d_gs.runs.checkpoint import Checkpoint
from vlm3d_gs.runs.folder import RunFolder
from vlm3d_gs.runs.log import RunLog

Drawn = tuple[Tensor, Mapping[str, float | Tensor]]
"""Pictures [C, H, W, 3] of an object, and scalars for the log."""


class DrawTogether(Protocol):
    """Draws the pictures of several objects at once."""

    def __call__(
        self,
        sources: Sequence[TargetSource],
        views: Sequence[Views],
        chain: Chain,
        progress: Progress,
    ) -> list[Drawn]:
        """Return for each object what its own source would draw."""
        ...


@dataclass(frozen=True)
class ObjectRun:
    """One object on its way."""

    name: str
    """Of the object, in the log and in checkpoints."""
    state: TrainState
    """Its Gaussians, and what changes with them."""
    guidances: Sequence[Guidance]
    """Called at its steps of distillation."""
    reconstruction: Reconstruction | None
    """What it is fitted to; None distils from the start."""


@dataclass(frozen=True)
class SceneRun:
    """All objects as one thing to save and to restore (`keeper.Kept`)."""

    objects: Sequence[ObjectRun]
    """Of equal numbers of steps; none if nothing is to be made."""

    @property
    def step(self) -> int:
        """Steps done."""
        return self.objects[0].state.step if self.objects else 0

    @property
    def rate_factor(self) -> float:
        """Multiplies all learning rates."""
        return self.objects[0].state.optimizer.rate_factor

    def scale_rates(self, factor: float) -> None:
        """Set `rate_factor`."""
        for each in self.objects:
            each.state.optimizer.rate_factor = factor

    def capture(self, meta: Mapping[str, Any]) -> Checkpoint:
        """Return what `restore` needs: the tensors of each object under its name.

        Raises:
            NotFiniteError: an object is broken.
        """
        tensors, facts = dict[str, Tensor](), {}
        for each in self.objects:
            found = capture_state(each.state, each.guidances, None, {})
            tensors |= {f"{each.name}/{name}": value for name, value in found.tensors.items()}
            facts[each.name] = found.meta
        return Checkpoint(self.step, tensors, {**meta, "objects": facts})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint of the same objects."""
        for each in self.objects:
            start = f"{each.name}/"
            tensors = {
                name.removeprefix(start): value
                for name, value in checkpoint.tensors.items()
                if name.startswith(start)
            }
            meta = checkpoint.meta["objects"][each.name]
            restore_state(Checkpoint(checkpoint.step, tensors, meta), each.state, each.guidances)


def train_objects(
    run: SceneRun,
    config: Config,
    log: RunLog,
    *,
    draw: DrawTogether,
    folder: RunFolder | None = None,
    show: Callable[[int], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> bool:
    """Take all objects to the end of the config's steps.

    What cannot be written on the way is said and tried again later. If an object becomes NaN or infinite, all go back
    to their last good state with smaller learning rates.

    Args:
        run: the objects; changed in place.
        config: settings of each of them.
        log: receives scalars, under the names of the objects, and progress.
        draw: draws the pictures of a round.
        folder: where checkpoints are written; None writes none.
        show: called at every `train.preview_every` of the run with the number of steps done.
        stop_requested: returns whether to end after the present step.

    Returns:
        True when all steps were done, False when the run was stopped after a whole step.

    Raises:
        NotFiniteError: an object became NaN or infinite again and again; the last good state is there.
    """
    steps, objects = config.train.steps, run.objects
    if not objects:
        return True
    keeper = StateKeeper(folder, run, config, tell=log.message)
    rows = {each.name: LogRows() for each in objects}
    broken = False

    with counting(objects[0].state.counts):
        while run.step < steps and not (broken or stop_requested()):
            try:
                for name, scalars in _step(objects, config, draw).items():
                    rows[name].add(run.step, scalars)

                due = stop_requested() or is_save_due(run.step, steps, config, keeper)
                if due or run.step == steps or rows[objects[0].name].are_due(objects[0].state):
                    broken = _write_rows(objects, rows, log)
                log.progress(run.step, steps, {})
                if due or broken or stop_requested():
                    keeper.save()
                if run.step == steps:
                    for each in objects:
                        validate(each.state.optimizer.gaussians)
            except NotFiniteError as error:
                keeper.go_back(error)
                rows = {each.name: LogRows() for each in objects}
                log.rewind(run.step)
            else:
                if show is not None and is_mark(run.step, steps, config.train.preview_every):
                    show(run.step)

    _write_rows(objects, rows, log)
    if run.step < steps:
        log.message(f"stopped after step {run.step} of {steps}; exporting what is there")
    done = [ended(each.state, config) for each in objects]
    return all(done)


def _step(
    objects: Sequence[ObjectRun], config: Config, draw: DrawTogether
) -> dict[str, dict[str, float | Tensor]]:
    """Do one step of every object; return the scalars of each by its name."""
    scalars: dict[str, dict[str, float | Tensor]] = {each.name: {} for each in objects}
    most = config.reconstruct.together
    for start in range(0, len(objects), most):
        scalars |= _begin_rounds(objects[start : start + most], config, draw)

    for each in objects:
        done = train_step(each.state, config, each.guidances, each.reconstruction)
        scalars[each.name] = {**scalars[each.name], **done}
    return scalars


def _begin_rounds(
    objects: Sequence[ObjectRun], config: Config, draw: DrawTogether
) -> dict[str, dict[str, float | Tensor]]:
    """Draw pictures of objects that need new ones, in one batch; return the scalars of each."""
    due = [
        (each, each.reconstruction)
        for each in objects
        if each.reconstruction is not None
        and each.state.step < config.reconstruct.until * config.train.steps
        and each.state.pool.is_round_over
    ]
    if not due:
        return {}

    # All objects have done the same steps, so their rounds begin at the same time, in the same way.
    began = [plan_round(each.state, config, source) for each, source in due]
    drawn = draw(
        [source.source for _, source in due],
        [one.views for one in began],
        began[0].chain,
        began[0].progress,
    )
    return {
        each.name: keep_pictures(each.state, config, source, one, *pictures)
        for (each, source), one, pictures in zip(due, began, drawn, strict=True)
    }


def _write_rows(objects: Sequence[ObjectRun], rows: Mapping[str, LogRows], log: RunLog) -> bool:
    """Log what has been kept back; return whether networks gave no finite answer too often."""
    broken, whole = False, dict[int, dict[str, float]]()
    for each in objects:
        for step, scalars in rows[each.name].fetch(each.state):
            broken = note_left_out(each.state, scalars, step, log) or broken
            row = whole.setdefault(step, {})
            row |= {f"{each.name}/{key}": value for key, value in scalars.items()}
    for step, row in whole.items():
        log.scalars(step, row)
    return broken

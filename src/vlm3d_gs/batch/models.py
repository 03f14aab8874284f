"""Assets by the models: `generate` as a single command does it, with the models kept from prompt to prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from vlm3d_gs.app.scene import generate_scene
from vlm3d_gs.app.selection import generate_one_or_best
from vlm3d_gs.assembly.kept import keep_models
from vlm3d_gs.assembly.layout import scene_layout
from vlm3d_gs.assembly.start import is_scene
from vlm3d_gs.batch.engine import Beat
from vlm3d_gs.batch.halving import Rate, generate_within
from vlm3d_gs.batch.items import Item, Shared, item_config
from vlm3d_gs.batch.outcome import Outcome, digests
from vlm3d_gs.config import Config
from vlm3d_gs.core.errors import CheckpointError, ConfigError
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.pipeline import GenerateResult
from vlm3d_gs.runs.folder import CANDIDATES, CHECKPOINT, CONFIG, PREVIOUS
from vlm3d_gs.runs.record import read_record

PICK_AT = 0.4
"""As the default of `generate --pick-at`."""
Run = Callable[[bool, bool], GenerateResult]
"""A run, given whether to overwrite and whether to resume."""


class ModelEngine:
    """Runs `generate`.

    Args:
        device: as the setting.
        offline: never contact the model hub.
    """

    def __init__(self, *, device: str = "auto", offline: bool = False) -> None:
        self._device, self._offline = device, offline
        self._stack = ExitStack()
        self._stack.enter_context(keep_models())
        self._rate = Rate()

    def make(self, item: Item, shared: Shared, folder: Path, beat: Beat) -> Outcome:
        """Make an asset; errors as those of `generate`."""
        began = time.monotonic()
        config = item_config(item, shared, folder)
        scene = is_scene(config)
        if scene:
            config = item_config(item, shared, folder, by_objects=True)
        config = replace(config, device=self._device, offline=self._offline)
        watching = _Watching(config, beat)
        result = _begun_or_resumed(folder, self._run(config, shared, watching, scene))

        stopped = watching.stopped or result.signal is not None
        summary = {} if stopped else read_record(folder).summary
        if not stopped:
            _drop_checkpoints(folder)
        return Outcome(
            item.id,
            item.prompt,
            int(summary.get("seed", config.train.seed)),
            "stopped" if stopped else "done",
            round(time.monotonic() - began, 3),
            files={} if stopped else digests(folder, result.files),
            held_out=result.held_out,
            seeds=watching.seeds,
            gaussians=len(result.gaussians),
            steps=result.steps,
            content=item.content,
        )

    def _run(self, config: Config, shared: Shared, watching: _Watching, scene: bool) -> Run:
        """Return the run of a prompt: as a whole, object by object, or the best of several."""
        several = shared.seeds is not None or shared.budget_s is not None

        if scene:
            if several:
                raise ConfigError(
                    "--seeds and --budget are for prompts that are made as a whole; the objects of this one are made "
                    "one by one. Put it into a batch without them."
                )
            return lambda overwrite, resume: generate_scene(
                config,
                scene_layout(config, None, resume=resume),
                overwrite=overwrite,
                resume=resume,
                quiet=True,
                follow=watching.follow,
            )

        if shared.budget_s is not None:
            budget_s = shared.budget_s
            return lambda overwrite, resume: generate_within(
                config,
                budget_s,
                shared.seeds,
                self._rate,
                overwrite=overwrite,
                resume=resume,
                observe=watching,
                tell=watching.compete,
            )

        watching.compete(shared.seeds or 1)
        return lambda overwrite, resume: generate_one_or_best(
            config,
            shared.seeds,
            pick_at=shared.pick_at or PICK_AT,
            overwrite=overwrite,
            resume=resume,
            quiet=True,
            observe=watching,
        )


class _Watching:
    """Passes steps on, and remembers whether it was asked to stop."""

    def __init__(self, config: Config, beat: Beat) -> None:
        self._steps, self._beat = config.train.steps, beat
        self.stopped = False
        self.seeds = 1

    def __call__(
        self, state: TrainState, scalars: Mapping[str, float], stop_requested: Callable[[], bool]
    ) -> bool:
        return self.follow(state.step)

    def follow(self, step: int) -> bool:
        """Pass on how far a scene is, whose objects advance together."""
        self.stopped = self._beat(step, self._steps) or self.stopped
        return self.stopped

    def compete(self, seeds: int) -> None:
        """Take note of how many seeds compete."""
        self.seeds = seeds


def _begun_or_resumed(folder: Path, run: Run) -> GenerateResult:
    """Go on with the run in a folder if it can be resumed; else begin, in place of what is there."""
    if not (folder / CONFIG).is_file():
        return run(False, False)
    try:
        return run(False, True)
    except CheckpointError:
        return run(True, False)


def _drop_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished run needs, which is several times as large as the asset."""
    for name in (CHECKPOINT, PREVIOUS):
        for path in (folder / name, *folder.glob(f"{CANDIDATES}/*/{name}")):
            with suppress(OSError):
                path.unlink()
    for path in folder.glob("parts/*/checkpoint*.safetensors"):
        with suppress(OSError):
            path.unlink()

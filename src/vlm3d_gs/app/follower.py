"""A process that computes its share of a run and writes nothing: `python -m vlm3d_gs.app.follower`.

It is started by `spread.start`, and reads one line of JSON: settings, what kind of run it is, and its own number. It
takes the same steps as the first process, with the same random numbers, and both exchange rows (`spread.ranks`). When
its input is closed the run is over, and so is this process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from vlm3d_gs.assembly.device import run_device
from vlm3d_gs.assembly.objects import draw_pictures, new_objects
from vlm3d_gs.assembly.resume import load_unfinished
from vlm3d_gs.assembly.start import new_run, read_prompt
from vlm3d_gs.config import Config, from_dict
from vlm3d_gs.core.errors import NotFiniteError, Vlm3dGsError
from vlm3d_gs.optimize.objects import train_objects
from vlm3d_gs.optimize.state import restore_state
from vlm3d_gs.optimize.trainer import train
from vlm3d_gs.runs.folder import FollowedFolder
from vlm3d_gs.runs.log import SilentLog
from vlm3d_gs.spread.ranks import Ranks, RunLeftError, join
from vlm3d_gs.spread.start import READY


def main() -> None:
    """Follow a run to its end; exit with 2 after an error that is meant for people."""
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    torch.set_num_threads(job["threads"])
    try:
        with join(Ranks(job["rank"], job["size"])) as ranks:
            follow(from_dict(job["config"]), job, ranks)
        threading.Event().wait()  # for the end of the input
    except Vlm3dGsError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def follow(config: Config, job: Mapping[str, Any], ranks: Ranks) -> None:
    """Take the steps of a run.

    Args:
        config: the run, on this process's device.
        job: `kind` whole or scene, `resume`, `until`, `prompts` of a scene, `folder` and `meeting`.
        ranks: all processes.
    """
    run = _follow_scene if job["kind"] == "scene" else _follow_whole
    # The first process says what went wrong, and whether there is more to do.
    with suppress(RunLeftError, NotFiniteError):
        run(config, job, ranks)


def _follow_whole(config: Config, job: Mapping[str, Any], ranks: Ranks) -> None:
    prompt = read_prompt(config.prompt, config.priors, config.critic)
    device = run_device(config)
    checkpoint = load_unfinished(config.out, config)[0] if job["resume"] else None
    state, objective, _ = new_run(config, prompt, device)
    if checkpoint is not None:
        restore_state(checkpoint, state, objective.guidances)

    _meet(job, ranks, device)
    train(
        state,
        config,
        objective.guidances,
        SilentLog(),
        reconstruction=objective.reconstruction,
        folder=FollowedFolder(config.out, Path(job["folder"])),
        until=job["until"],
        stop_requested=ranks.should_stop,
    )


def _follow_scene(config: Config, job: Mapping[str, Any], ranks: Ranks) -> None:
    device = run_device(config)
    checkpoint = load_unfinished(config.out, config)[0] if job["resume"] else None
    objects = new_objects(config, job["prompts"], device)
    if checkpoint is not None:
        objects.run.restore(checkpoint)

    _meet(job, ranks, device)
    train_objects(
        objects.run,
        config,
        SilentLog(),
        draw=draw_pictures,
        folder=FollowedFolder(config.out, Path(job["folder"])),
        stop_requested=ranks.should_stop,
    )


def _meet(job: Mapping[str, Any], ranks: Ranks, device: torch.device) -> None:
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    ranks.connect(Path(job["meeting"]), device)


def _end_with_input() -> None:
    """End this process at once when the first one is gone, whatever it is waiting for."""
    # Not by `sys.stdin`, whose lock Python wants back when this process ends with an error.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()

"""Scenes of many objects: each is made by a run of its own, then put where the layout says.

For each object with a prompt of its own `pipeline.generate` makes a whole run. What it made is measured and put into
the object's boxes (`assembly/placement.py`), and the scene, each object in place, and what stands where are written.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vlm3d_gs.assembly.device import run_device
from vlm3d_gs.assembly.layout import save_layout
from vlm3d_gs.assembly.placement import PlacedScene, measured_layout, place, seen_extent
from vlm3d_gs.assembly.products import Written, write_products
from vlm3d_gs.assembly.resume import expect_same_run, stored_config
from vlm3d_gs.assembly.start import read_prompt
from vlm3d_gs.config import Config, to_dict
from vlm3d_gs.core.errors import CheckpointError, ConfigError, ExportError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.layout.files import layout_to_plain
from vlm3d_gs.layout.solver import Layout
from vlm3d_gs.pipeline import GenerateResult, generate
from vlm3d_gs.runs.folder import (
    CHECKPOINT,
    CONFIG,
    OBJECTS,
    PARTS,
    SCENE_FILE,
    check_run_folder,
    run_folder,
)
from vlm3d_gs.runs.log import RunLog, write_config, write_json
from vlm3d_gs.runs.record import SPLAT, read_record


def generate_scene(
    config: Config,
    layout: Layout,
    *,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> GenerateResult:
    """Make each object of a layout by a run of its own, and the scene of them.

    Objects with the same prompt are made once. The runs stay in the folder `parts`; Ctrl-C ends the one in progress
    after its step, begins no other, and leaves a scene of what is there.

    Args:
        config: the run; its prompt stands for the scene, its steps are those of each object.
        layout: the objects and their boxes.
        overwrite: replace an earlier run in the folder.
        resume: continue an interrupted scene in the folder: objects that are done are kept.
        quiet: print nothing.

    Raises:
        PromptError: the embedded models do not know an object.
        ConfigError: the folder is taken, or a setting makes no sense object by object.
        CheckpointError: there is nothing to resume, or it is another run's.
        ExportError: the scene has no surface for the mesh in `export.formats`; everything else is written.
    """
    began = time.monotonic()
    _check(config, layout)
    check_run_folder(config.out, overwrite=overwrite, resume=resume)
    device = run_device(config)
    if resume:
        _check_unfinished(config)

    with run_folder(config.out, overwrite=overwrite, resume=resume) as folder:
        # From here on the scene can be resumed, so it takes the place of an earlier run.
        write_config(folder.path, config)
        save_layout(layout, folder.path, overwrite=True)
        folder.stand()
        with RunLog(folder, config, quiet=quiet) as log, noticing(log.message):
            result, written = _make_scene(config, layout, log, device, quiet=quiet, began=began)

    if written.failures:
        raise ExportError(f"The scene is done, all but this: {written.failures[0]}")
    return result


def _make_scene(
    config: Config,
    layout: Layout,
    log: RunLog,
    device: torch.device,
    *,
    quiet: bool,
    began: float,
) -> tuple[GenerateResult, Written]:
    """Make the objects, put them in place and write everything; return what was made, and what was not."""
    parts = _parts(config, layout)
    made, last = _make_all(parts, log, quiet)
    finished = len(made) == len(parts) and last.signal is None

    # Pictures are made on the run's device, everything else on the CPU.
    backend = config.render.backend
    measured = {prompt: seen_extent(cloud.to(device), backend) for prompt, cloud in made.items()}
    known = [item for item in layout.graph.objects if item.prompt in made]
    extents = {item.name: measured[item.prompt] for item in known}
    layout = measured_layout(layout, extents)
    save_layout(layout, config.out, overwrite=True)
    scene = place(layout, {item.name: made[item.prompt] for item in known}, extents)

    objects = _write_objects(config.out, layout, scene, parts)
    trained_s = time.monotonic() - began
    written = write_products(scene.gaussians.to(device), config, log.message)
    result = GenerateResult(
        scene.gaussians,
        config.out,
        (*written.files, *objects),
        config.train.steps if finished else last.steps,
        time.monotonic() - began,
        signal=last.signal,
    )
    log.summary(_summary(config, layout, result, finished, trained_s))
    return result, written


def _check(config: Config, layout: Layout) -> None:
    """Refuse what cannot work before anything is written."""
    for item in layout.graph.objects:
        read_prompt(item.prompt, config.priors, config.critic)
    if config.critic.enabled and config.critic.questions.asks:
        raise ConfigError(
            "Objects of a scene are made one by one, so a question of your own (--ask) would be asked about each of "
            "them alone. Leave it out, or make one object with it."
        )


def _check_unfinished(config: Config) -> None:
    """Require that the folder holds a scene of the same settings with something left to do."""
    expect_same_run(to_dict(stored_config(config.out)), config, config.out)
    summary = read_record(config.out).summary
    steps = summary.get("steps", 0)
    if summary.get("finished") and steps >= config.train.steps:
        raise CheckpointError(
            f"The scene in {config.out} is done, with {steps} steps an object. Use more --steps."
        )


def _parts(config: Config, layout: Layout) -> dict[str, Config]:
    """Return the run of each different object, by its prompt; its folder is named after the first such object."""
    parts: dict[str, Config] = {}
    for item in layout.graph.objects:
        if item.prompt not in parts:
            parts[item.prompt] = replace(
                config,
                prompt=item.prompt,
                out=config.out / PARTS / item.name,
                export=replace(config.export, formats=("ply",)),
            )
    return parts


def _make_all(
    parts: dict[str, Config], log: RunLog, quiet: bool
) -> tuple[dict[str, Gaussians], GenerateResult]:
    """Make the objects in turn, until the user stops one; return them by prompt, and what the last run left."""
    made: dict[str, Gaussians] = {}
    for number, (prompt, config) in enumerate(parts.items(), 1):
        log.message(f"object {number} of {len(parts)}: {prompt}")
        last = _make(config, quiet)
        # From the file in any case, so that a resumed scene is the same to the last bit.
        made[prompt] = read_splat(config.out / SPLAT)
        if last.signal is not None:
            log.message(f"stopped at {prompt}, {len(parts) - number} of {len(parts)} not begun")
            break
    return made, last


def _make(config: Config, quiet: bool) -> GenerateResult:
    """Make one object, continue it, or take it as an earlier run left it."""
    splat, known = config.out / SPLAT, (config.out / CONFIG).is_file()
    if known and splat.is_file():
        summary = read_record(config.out).summary
        steps = summary.get("steps", 0)
        if summary.get("finished") and steps >= config.train.steps:
            return GenerateResult(read_splat(splat), config.out, (splat,), steps, 0.0)

    resume = (config.out / CHECKPOINT).is_file()
    return generate(config, overwrite=known and not resume, resume=resume, quiet=quiet)


def _write_objects(
    out: Path, layout: Layout, scene: PlacedScene, parts: dict[str, Config]
) -> tuple[Path, ...]:
    """Write objects/NAME.ply, each in place, and scene.json; return the files."""
    (out / OBJECTS).mkdir(exist_ok=True)
    files, rows, first = [], [], 0
    for number, item in enumerate(layout.graph.objects):
        gaussians = scene.only(number)
        if len(gaussians) == 0:
            continue
        path = out / OBJECTS / f"{item.name}.ply"
        write_splat(gaussians, path)
        files.append(path)

        part = parts[item.prompt].out
        rows.append(
            {
                "name": item.name,
                "prompt": item.prompt,
                "file": str(path.relative_to(out)),
                "run": str(part.relative_to(out)),
                "gaussians": [first, first + len(gaussians)],
                "things": _things(scene, item.name),
                **_answers(part),
            }
        )
        first += len(gaussians)

    write_json(out / SCENE_FILE, {"layout": layout_to_plain(layout), "objects": rows})
    return (*files, out / SCENE_FILE)


def _things(scene: PlacedScene, name: str) -> list[dict[str, Any]]:
    return [
        {"number": pose.number, "scale": pose.scale, "translation": list(pose.translation)}
        for pose in scene.poses
        if pose.name == name
    ]


def _answers(part: Path) -> dict[str, Any]:
    """Return the critic's last reading of an object, where the run was watched."""
    watch = read_record(part).summary.get("watch")
    return {} if watch is None else {"watch": watch}


def _summary(
    config: Config, layout: Layout, result: GenerateResult, finished: bool, trained_s: float
) -> dict[str, Any]:
    return {
        "prompt": config.prompt,
        "preset": config.preset,
        "seed": config.train.seed,
        "steps": result.steps,
        "finished": finished,
        "objects": {item.name: item.count for item in layout.graph.objects},
        "gaussians": len(result.gaussians),
        "seconds": round(result.seconds, 2),
        "seconds_before_export": round(trained_s, 2),
        "files": [
            path.relative_to(config.out).as_posix()
            if path.is_relative_to(config.out)
            else str(path)
            for path in result.files
        ],
    }

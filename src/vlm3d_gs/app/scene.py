"""Scenes of many objects: all are made side by side, each in a frame of its own, then put where the layout says.

The objects share one process, one set of models and one loop (`optimize/objects.py`). What was made is measured and put
into its boxes (`assembly/placement.py`), the critic is asked about each object and relation alone
(`assembly/answers.py`), and the scene, each object in place, and what stands where are written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vlm3d_gs.app.earlier import earlier_objects
from vlm3d_gs.assembly.answers import Answer, ask_scene
from vlm3d_gs.assembly.device import run_device
from vlm3d_gs.assembly.layout import save_layout
from vlm3d_gs.assembly.objects import SceneObjects, draw_pictures, new_objects
from vlm3d_gs.assembly.placement import PlacedScene, measured_layout, place, seen_extent
from vlm3d_gs.assembly.products import Written, write_products
from vlm3d_gs.assembly.resume import load_unfinished
from vlm3d_gs.assembly.settling import settled
from vlm3d_gs.assembly.start import read_prompt
from vlm3d_gs.config import Config
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.core.errors import (
    CheckpointError,
    ConfigError,
    ExportError,
    NotFiniteError,
    Vlm3dGsError,
    WriteError,
)
from vlm3d_gs.core.files import make_folder
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.formats.convert import holds_parts, write_objects, write_splat
from vlm3d_gs.layout.files import layout_to_plain
from vlm3d_gs.layout.solver import Layout
from vlm3d_gs.optimize.objects import SceneRun, train_objects
from vlm3d_gs.pipeline import GenerateResult
from vlm3d_gs.render import Backend
from vlm3d_gs.runs.checkpoint import Checkpoint
from vlm3d_gs.runs.folder import OBJECTS, SCENE_FILE, RunFolder, check_run_folder, run_folder
from vlm3d_gs.runs.interrupt import stop_requests
from vlm3d_gs.runs.log import RunLog, write_json
from vlm3d_gs.show.sheet import write_preview
from vlm3d_gs.spread.start import several_processes


def generate_scene(
    config: Config,
    layout: Layout,
    *,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    follow: Callable[[int], bool] = lambda step: False,
    earlier: Path | None = None,
) -> GenerateResult:
    """Make each object of a layout, and the scene of them.

    Objects with the same prompt are made once. Ctrl-C ends the loop after a step of all objects; the scene is then
    written as it is, and can be resumed.

    Args:
        config: the run; its prompt stands for the scene, its steps are those of each object.
        layout: the objects and their boxes.
        overwrite: replace an earlier run in the folder.
        resume: continue an interrupted scene in the folder.
        quiet: print nothing.
        follow: called with the steps done at every step, perhaps several times; returns whether to end, as Ctrl-C does.
        earlier: folder of a finished scene, whose objects are taken over where the prompt is the same.

    Raises:
        PromptError: the embedded models do not know an object.
        InputFileError: there is no finished scene in `earlier`.
        ConfigError: the folder is taken, or a setting makes no sense object by object.
        CheckpointError: there is nothing to resume, or it is another run's.
        WriteError: the folder cannot be written into.
        ExportError: the scene has no surface for the mesh in `export.formats`; everything else is written.
        NotFiniteError: an object became NaN again and again; the last good state is written.
    """
    began = time.monotonic()
    _check(config, layout)
    check_run_folder(config.out, overwrite=overwrite, resume=resume)
    device = run_device(config)
    kept = {} if earlier is None else earlier_objects(earlier)
    prompts = {name: prompt for name, prompt in first_names(layout).items() if prompt not in kept}
    work = {"resume": resume, "prompts": prompts}
    with (
        run_folder(config.out, overwrite=overwrite, resume=resume) as folder,
        several_processes(config, device, folder.path, "scene", **work) as team,
    ):
        checkpoint, note = _to_resume(config, prompts) if resume else (None, "")
        objects = new_objects(config, prompts, team.device, progress=not quiet)
        objects = replace(objects, kept=_by_name(layout, kept, team.device))
        if checkpoint is not None:
            objects.run.restore(checkpoint)
        save_layout(layout, folder.path, overwrite=True)
        step = objects.run.step if resume else None
        with (
            stop_requests() as stop_requested,
            RunLog(folder, config, quiet=quiet, resume_step=step) as log,
            noticing(log.message),
            team.together(partial(_ends, stop_requested, follow, objects.run)) as should_stop,
        ):
            for line in filter(None, [note, *objects.notes]):
                log.message(line)
            troubles, finished = list[Vlm3dGsError](), False
            try:
                finished = train_objects(
                    objects.run,
                    config,
                    log,
                    draw=draw_pictures,
                    folder=folder,
                    show=_Preview(objects, layout, folder, config.render.backend),
                    stop_requested=should_stop,
                )
            except NotFiniteError as error:
                troubles.append(error)
            team.part()
            result, failures = _finish(
                folder, config, layout, objects, log, finished=finished, began=began
            )
            result = replace(result, signal=stop_requested.number)
    if troubles := [*troubles, *failures]:
        raise _as_error(troubles[0])
    return result


def first_names(layout: Layout) -> dict[str, str]:
    """Return what is made for a layout: for each different prompt the name of the first object that has it."""
    names: dict[str, str] = {}
    for item in layout.graph.objects:
        names.setdefault(item.prompt, item.name)
    return {name: prompt for prompt, name in names.items()}


def _ends(stop_requested: Callable[[], bool], follow: Callable[[int], bool], run: SceneRun) -> bool:
    return stop_requested() or follow(run.step)


def _by_name(
    layout: Layout, kept: Mapping[str, Gaussians], device: torch.device
) -> dict[str, Gaussians]:
    """Return those objects that a layout needs, by the name of the first that has their prompt."""
    return {
        name: kept[prompt].to(device)
        for name, prompt in first_names(layout).items()
        if prompt in kept
    }


def _as_error(failure: Vlm3dGsError) -> Vlm3dGsError:
    if isinstance(failure, NotFiniteError):
        return failure
    kind = WriteError if isinstance(failure, WriteError) else ExportError
    return kind(f"The scene is done, all but this: {failure}")


def _to_resume(config: Config, prompts: Mapping[str, str]) -> tuple[Checkpoint, str]:
    """Return the checkpoint of an interrupted scene of the same objects, and what the user should know."""
    checkpoint, note = load_unfinished(config.out, config)
    before = sorted(checkpoint.meta.get("objects", {}))
    if before != sorted(prompts):
        raise CheckpointError(
            f"The scene in {config.out} has the objects {', '.join(before) or 'none'}, the layout now "
            f"{', '.join(sorted(prompts))}. Give the layout of that run, or choose another --out."
        )
    return checkpoint, note


class _Preview:
    """Writes a sheet of the scene as it is."""

    def __init__(
        self, objects: SceneObjects, layout: Layout, folder: RunFolder, backend: Backend
    ) -> None:
        self.objects, self.layout, self.folder, self.backend = objects, layout, folder, backend

    def __call__(self, step: int) -> None:
        """Write the sheet of a step."""
        _, scene = _placed(self.layout, self.objects.clouds(), self.backend)
        make_folder(self.folder.previews)
        picture = self.folder.previews / f"step_{step:06d}.png"
        write_preview(scene.gaussians, picture, backend=self.backend)


def _placed(
    layout: Layout, made: Mapping[str, Gaussians], backend: Backend
) -> tuple[Layout, PlacedScene]:
    """Put clouds, by the name of the first object of their prompt, into the boxes of a layout."""
    prompts = {prompt: name for name, prompt in first_names(layout).items()}
    measured = {name: seen_extent(cloud, backend) for name, cloud in made.items()}

    extents = {item.name: measured[prompts[item.prompt]] for item in layout.graph.objects}
    layout = measured_layout(layout, extents)
    return layout, place(layout, _own_clouds(layout, made), extents)


def _own_clouds(layout: Layout, made: Mapping[str, Gaussians]) -> dict[str, Gaussians]:
    """Return each object in its own frame, on the CPU: pictures alone are made on the run's device."""
    prompts = {prompt: name for name, prompt in first_names(layout).items()}
    return {item.name: made[prompts[item.prompt]].to("cpu") for item in layout.graph.objects}


def _finish(
    folder: RunFolder,
    config: Config,
    layout: Layout,
    objects: SceneObjects,
    log: RunLog,
    *,
    finished: bool,
    began: float,
) -> tuple[GenerateResult, list[Vlm3dGsError]]:
    """Put the objects in place, ask about them, and write everything; return what was made, and what was not."""
    made = objects.clouds()
    layout, scene = _placed(layout, made, config.render.backend)
    scene, words = settled(layout, scene, _own_clouds(layout, made), config.render.backend)
    if words:
        log.message(words)
    answers = ask_scene(config, layout, scene, made, objects.critic)
    for answer in answers:
        if not answer.yes:
            log.message(f"the critic says No: {answer.question}")
    trained_s = time.monotonic() - began

    # A run that overwrites another has its place by now, unless it wrote no checkpoint.
    try:
        folder.stand()
        log.ensure()
    except WriteError as error:
        log.message(f"warning: {error}")
    written = Written()
    others = tuple(name for name in config.export.formats if PRODUCTS[name].kind != "mesh")
    if others:
        whole = replace(config, export=replace(config.export, formats=others))
        written = write_products(scene.gaussians.to(objects.device), whole, log.message)
    files, failures = list(written.files), list(written.failures)
    try:
        save_layout(layout, config.out, overwrite=True)
        files += _write_objects(config.out, layout, scene, answers, config.export.formats)
        files += _write_meshes(config, layout, scene, objects.device)
    except Vlm3dGsError as error:
        failures.append(error)

    seconds = time.monotonic() - began
    result = GenerateResult(scene.gaussians, config.out, tuple(files), objects.run.step, seconds)
    try:
        facts = _summary(config, layout, result, finished, trained_s)
        facts |= {name.replace(" ", "_"): number for name, number in objects.counts.items()}
        facts |= {"runtimes": objects.runtimes, "kept": sorted(objects.kept)}
        log.summary(facts | ({"answers": _plain(answers)} if answers else {}))
    except ExportError as error:
        failures.append(error)
    return result, failures


def _check(config: Config, layout: Layout) -> None:
    """Refuse what cannot work before anything is written."""
    for item in layout.graph.objects:
        read_prompt(item.prompt, config.priors, config.critic)
    if config.critic.enabled and config.critic.questions.asks:
        raise ConfigError(
            "Objects of a scene are made one by one, so a question of your own (--ask) would be asked about each of "
            "them alone. Leave it out, or make one object with it."
        )


def _write_objects(
    out: Path,
    layout: Layout,
    scene: PlacedScene,
    answers: Sequence[Answer],
    formats: Sequence[str],
) -> tuple[Path, ...]:
    """Write objects/NAME.ply, each in place, and scene.json; return the files.

    What `formats` names and can hold objects apart (glTF, USD) is written again with them apart.
    """
    (out / OBJECTS).mkdir(exist_ok=True)
    clouds = {item.name: scene.only(number) for number, item in enumerate(layout.graph.objects)}
    for product in formats:
        if PRODUCTS[product].kind == "splat" and holds_parts(out / PRODUCTS[product].file):
            write_objects(clouds, out / PRODUCTS[product].file)

    files, rows, first = [], [], 0
    for item in layout.graph.objects:
        gaussians = clouds[item.name]
        path = out / OBJECTS / f"{item.name}.ply"
        write_splat(gaussians, path)
        files.append(path)

        rows.append(
            {
                "name": item.name,
                "prompt": item.prompt,
                "file": str(path.relative_to(out)),
                "gaussians": [first, first + len(gaussians)],
                "things": _things(scene, item.name),
            }
        )
        first += len(gaussians)

    content = {"layout": layout_to_plain(layout), "objects": rows, "answers": _plain(answers)}
    write_json(out / SCENE_FILE, content)
    return (*files, out / SCENE_FILE)


def _write_meshes(
    config: Config, layout: Layout, scene: PlacedScene, device: torch.device
) -> list[Path]:
    """Write the mesh that is asked for, a node for each object, and return the files.

    A mesh of the whole scene would join what touches.
    """
    files = [PRODUCTS[name].file for name in config.export.formats if PRODUCTS[name].kind == "mesh"]
    if not files:
        return []
    from vlm3d_gs.mesh import extract_mesh, write_meshes

    meshes = {
        item.name: extract_mesh(scene.only(number).to(device), backend=config.render.backend)
        for number, item in enumerate(layout.graph.objects)
    }
    for file in files:
        write_meshes(meshes, config.out / file)
    return [config.out / file for file in files]


def _things(scene: PlacedScene, name: str) -> list[dict[str, Any]]:
    return [
        {
            "number": pose.number,
            "scale": pose.scale,
            "turn_deg": pose.turn_deg,
            "translation": list(pose.translation),
        }
        for pose in scene.poses
        if pose.name == name
    ]


def _plain(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    return [answer.to_dict() for answer in answers]


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

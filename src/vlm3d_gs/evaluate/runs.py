"""Finished runs against their prompts: one row per run, one row per group, as data and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.prompts import Composition, parse_prompt
from vlm3d_gs.evaluate.composition import CompositionReport, evaluate
from vlm3d_gs.evaluate.scene import SceneReport, evaluate_scene
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.layout.files import read_layout
from vlm3d_gs.layout.grammar import parse_scene
from vlm3d_gs.layout.graph import SceneGraph
from vlm3d_gs.mini.world.scenes import is_held_out
from vlm3d_gs.render import Backend
from vlm3d_gs.runs.folder import LAYOUT_FILE

SCENE_GROUPS = ("3 objects", "4 to 8 objects", "counts", "sizes")
"""Of prompts with a scene graph; one with a size word belongs to the last, whatever else it has."""
GROUPS = ("one object", "two objects", "two objects, held out", *SCENE_GROUPS)


@dataclass(frozen=True)
class RunRow:
    """One run and its verdict."""

    run: str
    """Name of the run's folder."""
    prompt: str
    """As given to the run."""
    seed: int | None
    """None if the run's config does not say."""
    group: str
    """One of `GROUPS`."""
    gaussians: int
    """Number of Gaussians in the exported scene."""
    report: CompositionReport | SceneReport
    """The verdict with its reasons."""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data for JSON."""
        return {**asdict(self), "report": self.report.to_dict()}


@dataclass(frozen=True, slots=True)
class GroupRow:
    """The results of one group of runs; shares are 0 to 1."""

    group: str
    """One of `GROUPS`."""
    runs: int
    """Number of runs."""
    objects_right: float
    """Share of the runs with every object right in colour and shape."""
    relation_right: float | None
    """Share of the runs with the relation right; None for one object."""
    content_right: float
    """Share of the runs with objects and relation right."""
    clean: float
    """Share of the runs within all limits of cleanliness."""
    foreign_mean: float
    """Mean share of covered pixels in colours that the prompt does not name."""
    haze_mean: float
    """Mean share of covered pixels that are faint away from an edge."""
    floaters_mean: float
    """Mean share of covered pixels that hang apart from the objects."""


def evaluate_run(folder: str | Path, *, backend: Backend = "auto") -> RunRow:
    """Check the scene of one finished run against its prompt, or its layout if it has one.

    Args:
        folder: a run folder with `scene.ply` and `config.json`.
        backend: as in `render.render`.

    Raises:
        InputFileError: a file is missing or unreadable, or has no prompt.
        PromptError: the prompt does not belong to the mini world.
    """
    run = Path(folder)
    prompt, seed = _read_config(run / "config.json")
    layout = run / LAYOUT_FILE
    graph = read_layout(layout).graph if layout.is_file() else None
    return judge_splat(run.name, prompt, seed, run / "scene.ply", backend, graph)


def judge_splat(
    name: str,
    prompt: str,
    seed: int | None,
    splat: Path,
    backend: Backend = "auto",
    graph: SceneGraph | None = None,
) -> RunRow:
    """Check a splat file against a prompt: of one or two objects, or one that the layout's grammar reads.

    Args:
        name: of the row.
        prompt: what the scene should be.
        seed: for the record.
        splat: the file.
        backend: as in `render.render`.
        graph: what the scene should be, in the prompt's place.

    Raises:
        InputFileError: the file is missing or unreadable.
        PromptError: the prompt does not belong to the mini world.
        LayoutError: it has too many objects.
    """
    known = parse_prompt(prompt).composition if graph is None else None
    if graph is None and known is None:
        graph = parse_scene(prompt)

    gaussians = read_splat(splat)
    report: CompositionReport | SceneReport
    if known is not None:
        group, report = group_of(known), evaluate(gaussians, known, backend=backend)
    else:
        assert graph is not None
        group, report = group_of_scene(graph), evaluate_scene(gaussians, graph, backend=backend)
    return RunRow(name, prompt, seed, group, len(gaussians), report)


def find_runs(root: str | Path) -> list[Path]:
    """Return the finished runs at or below a folder, sorted by path, without those that a run is made of.

    Raises:
        InputFileError: there is none.
    """
    folder = Path(root)
    scenes = sorted(folder.rglob("scene.ply")) if folder.is_dir() else []
    runs: list[Path] = []
    for run in (scene.parent for scene in scenes if (scene.parent / "config.json").is_file()):
        if not any((above / "config.json").is_file() for above in _between(folder, run)):
            runs.append(run)
    if not runs:
        raise InputFileError(
            f"{folder} holds no finished run: a run folder has scene.ply and config.json. "
            "Make one with `vlm3d-gs generate PROMPT --out DIR`."
        )
    return runs


def _between(folder: Path, run: Path) -> list[Path]:
    """Return the folders above a run, down from and with the one that was searched."""
    return [above for above in run.parents if above.is_relative_to(folder)]


def summarize(rows: Sequence[RunRow]) -> list[GroupRow]:
    """Return one row for each group that has runs, in the order of `GROUPS`."""
    grouped = [(name, [row.report for row in rows if row.group == name]) for name in GROUPS]
    return [_summarize_group(name, reports) for name, reports in grouped if reports]


def markdown_table(rows: Sequence[RunRow]) -> str:
    """Return the groups and the runs as two Markdown tables, for a log or a README."""
    shares = ("objects right", "relation right", "both", "clean", "foreign", "haze", "floaters")
    groups = [
        (
            item.group,
            item.runs,
            f"{item.objects_right:.0%}",
            "" if item.relation_right is None else f"{item.relation_right:.0%}",
            f"{item.content_right:.0%}",
            f"{item.clean:.0%}",
            f"{item.foreign_mean:.1%}",
            f"{item.haze_mean:.1%}",
            f"{item.floaters_mean:.1%}",
        )
        for item in summarize(rows)
    ]

    runs = [
        (
            row.prompt,
            "" if row.seed is None else row.seed,
            "yes" if row.report.content_right else "no",
            "yes" if row.report.clean else "no",
            f"{row.report.foreign_fraction:.1%}",
            "; ".join(row.report.reasons),
        )
        for row in rows
    ]

    heading = ("prompt", "seed", "right", "clean", "foreign", "what is wrong")
    return f"{_table(('group', 'runs', *shares), groups)}\n{_table(heading, runs)}"


def group_of(composition: Composition) -> str:
    """Return the group of `GROUPS` that a prompt belongs to."""
    if len(composition.objects) == 1:
        return GROUPS[0]
    return GROUPS[2] if is_held_out(composition) else GROUPS[1]


def group_of_scene(graph: SceneGraph) -> str:
    """Return the group of `SCENE_GROUPS` that a scene graph belongs to."""
    if any(item.size != "normal" for item in graph.objects):
        return SCENE_GROUPS[3]
    if any(item.count > 1 for item in graph.objects):
        return SCENE_GROUPS[2]
    return SCENE_GROUPS[0] if len(graph.objects) <= 3 else SCENE_GROUPS[1]


def _summarize_group(name: str, reports: Sequence[CompositionReport | SceneReport]) -> GroupRow:
    def mean(values: list[float] | list[bool]) -> float:
        return sum(values) / len(values)

    relations = [item.relation_right for item in reports if item.relation_right is not None]
    return GroupRow(
        group=name,
        runs=len(reports),
        objects_right=mean([all(thing.right for thing in item.objects) for item in reports]),
        relation_right=mean(relations) if relations else None,
        content_right=mean([item.content_right for item in reports]),
        clean=mean([item.clean for item in reports]),
        foreign_mean=mean([item.foreign_fraction for item in reports]),
        haze_mean=mean([item.haze_fraction for item in reports]),
        floaters_mean=mean([item.floater_fraction for item in reports]),
    )


def _read_config(path: Path) -> tuple[str, int | None]:
    """Return the prompt and the seed of a run's resolved config."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputFileError(f"Cannot read {path}: {error}") from error

    # `config.json` holds the settings at the top level or, next to versions and commit, under "config".
    settings = data.get("config", data) if isinstance(data, dict) else {}
    prompt = settings.get("prompt") if isinstance(settings, dict) else None
    if not isinstance(prompt, str):
        raise InputFileError(f"{path} has no prompt; it is not the config of a run.")

    train = settings.get("train")
    seed = train.get("seed") if isinstance(train, dict) else None
    return prompt, seed if isinstance(seed, int) else None


def _table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)

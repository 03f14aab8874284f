"""What a person points at, judged: run folders, folders of runs, or single splat files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.prompts import parse_composition
from vlm3d_gs.evaluate.composition import evaluate
from vlm3d_gs.evaluate.runs import RunRow, evaluate_run, find_runs, group_of
from vlm3d_gs.formats.convert import read_splat


def judge(
    targets: Iterable[Path],
    prompt: str | None = None,
    on_row: Callable[[RunRow], None] | None = None,
) -> list[RunRow]:
    """Check every scene that the targets stand for.

    Args:
        targets: folders (every finished run at or below) or splat files.
        prompt: what all of them should show; None is each run's own prompt.
        on_row: called after each scene, to show progress.

    Raises:
        InputFileError: nothing to judge there, an unreadable file, or a splat without a prompt.
        PromptError: a prompt is not of the mini world.
    """
    rows = []
    for target in targets:
        for place in [target] if target.is_file() else find_runs(target):
            row = evaluate_run(place) if prompt is None and place.is_dir() else _one(place, prompt)
            rows.append(row)
            if on_row is not None:
                on_row(row)
    return rows


def describe(row: RunRow) -> str:
    """Return the verdict as a line for a person, with the reasons when something is wrong."""
    verdict = "right" if row.report.ok else "WRONG"
    reasons = "".join(f"\n       {reason}" for reason in row.report.reasons)
    return f"{verdict:<6} {row.run}: {row.prompt}{reasons}"


def write_rows(path: Path, rows: Sequence[RunRow]) -> None:
    """Write the rows with their full reports as JSON.

    Raises:
        ExportError: the folder does not exist.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps([row.to_dict() for row in rows], indent=2) + "\n")


def _one(place: Path, prompt: str | None) -> RunRow:
    if prompt is None:
        raise InputFileError(f"{place} names no prompt. Give one with --prompt, or give a run.")
    wanted = parse_composition(prompt)
    gaussians = read_splat(place / "scene.ply" if place.is_dir() else place)
    report = evaluate(gaussians, wanted)
    return RunRow(place.name, prompt, None, group_of(wanted), len(gaussians), report)

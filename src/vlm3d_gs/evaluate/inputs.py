"""Judge what the command line names: run folders, folders of runs, or single splat files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.evaluate.composition import verdict
from vlm3d_gs.evaluate.runs import RunRow, evaluate_run, find_runs, judge_splat


def judge(
    targets: Iterable[Path],
    prompt: str | None = None,
    on_row: Callable[[RunRow], None] | None = None,
) -> list[RunRow]:
    """Check every scene at the targets.

    Args:
        targets: folders (every finished run at or below) or splat files.
        prompt: what all of them should show; None is each run's own prompt.
        on_row: called after each scene, to show progress.

    Raises:
        InputFileError: nothing to judge, an unreadable file, or a splat file without a prompt.
        PromptError: a prompt does not belong to the mini world.
    """
    rows = []
    for target in targets:
        for path in [target] if target.is_file() else find_runs(target):
            row = evaluate_run(path) if prompt is None and path.is_dir() else _one(path, prompt)
            rows.append(row)
            if on_row is not None:
                on_row(row)
    return rows


def describe(row: RunRow) -> str:
    """Return the verdict as a line for people, followed by the reasons if something is wrong."""
    reasons = "".join(f"\n{'':<17} {reason}" for reason in row.report.reasons)
    return f"{verdict(row.report.content_right, row.report.clean):<17} {row.run}: {row.prompt}{reasons}"


def write_rows(path: Path, rows: Sequence[RunRow]) -> None:
    """Write the rows with their full reports as JSON.

    Raises:
        ExportError: the folder does not exist.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps([row.to_dict() for row in rows], indent=2) + "\n")


def _one(path: Path, prompt: str | None) -> RunRow:
    if prompt is None:
        raise InputFileError(
            f"{path} has no prompt of its own. Give one with --prompt, or name a run's folder."
        )
    return judge_splat(path.name, prompt, None, path / "scene.ply" if path.is_dir() else path)

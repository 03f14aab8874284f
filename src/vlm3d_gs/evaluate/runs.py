"""Judging from files: a run's folder or a splat, with the prompt that it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlm3d_gs.errors import InputFileError
from vlm3d_gs.evaluate.composition import CompositionReport, evaluate
from vlm3d_gs.export.ply import read_ply
from vlm3d_gs.files import atomic_path


@dataclass(frozen=True, slots=True)
class Target:
    """One scene to judge."""

    name: str
    """The path as the user gave it."""
    splat: Path
    """The scene's PLY file."""
    prompt: str
    """What it should show."""


def read_target(path: Path, prompt: str | None = None) -> Target:
    """Find the splat and the prompt that a path stands for.

    Args:
        path: a run's folder (scene.ply, config.json), or a splat file.
        prompt: wins over the prompt in the run's config.json.

    Raises:
        InputFileError: no splat there, or no prompt given and none recorded.
    """
    splat = path / "scene.ply" if path.is_dir() else path
    if not splat.is_file():
        raise InputFileError(
            f"{path} holds no splat: {splat} does not exist. Give a run or a .ply."
        )
    prompt = prompt or _recorded_prompt(splat.parent / "config.json")
    if prompt is None:
        raise InputFileError(f"No prompt is recorded beside {splat}. Give one with --prompt.")
    return Target(str(path), splat, prompt)


def _recorded_prompt(config: Path) -> str | None:
    try:
        prompt = json.loads(config.read_text())["config"]["prompt"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return prompt if isinstance(prompt, str) else None


def judge(path: Path, prompt: str | None = None) -> CompositionReport:
    """Read a run or a splat and check it against its prompt.

    Raises:
        InputFileError: no splat there, an unreadable one, or no prompt.
        PromptError: the prompt is not of the mini world.
    """
    target = read_target(path, prompt)
    return evaluate(read_ply(target.splat), target.prompt)


def describe(name: str, report: CompositionReport) -> str:
    """Return the verdict as one line for a person, with the reasons when something is wrong."""
    verdict = "right" if report.ok else "WRONG"
    reasons = "".join(f"\n       {reason}" for reason in report.reasons)
    return f"{verdict:<6} {name}: {report.prompt}{reasons}"


def write_reports(path: Path, reports: Mapping[str, CompositionReport]) -> None:
    """Write full reports as JSON: name -> report, in the given order.

    Raises:
        ExportError: the folder does not exist.
    """
    plain = {name: report.to_dict() for name, report in reports.items()}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plain, indent=2) + "\n")

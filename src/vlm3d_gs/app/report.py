"""What a run tells when it ends: its files and where they open, the critic's answers, the checker's verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm3d_gs.assembly.device import has_small_models_only
from vlm3d_gs.config import Config
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.core.errors import Vlm3dGsError
from vlm3d_gs.core.prompts import parse_prompt
from vlm3d_gs.pipeline import GenerateResult
from vlm3d_gs.runs.answers import Answer, to_plain
from vlm3d_gs.runs.folder import CANDIDATES, LAYOUT_FILE
from vlm3d_gs.runs.record import read_record

if TYPE_CHECKING:
    from vlm3d_gs.evaluate.composition import CompositionReport
    from vlm3d_gs.evaluate.scene import SceneReport

OPENS_IN = {
    ".ply": "splat viewers, e.g. superspl.at/editor",
    ".spz": "splat viewers, e.g. superspl.at/editor",
    ".sog": "PlayCanvas and SuperSplat",
    ".splat": "web viewers of .splat",
    ".usdc": "USD programs that know splats",
    ".html": "any browser, offline",
    ".mp4": "any video player",
    ".gif": "any browser",
    ".webp": "any browser",
    ".png": "any picture viewer",
}
"""Suffix -> where such a product opens."""
BY_NAME = {
    "mesh.glb": "Blender, and most 3D programs",
    "scene.glb": "glTF viewers that know splats",
}
MOST_FILES = 12
"""A scene of many objects has more; the folder is named."""


def print_report(
    result: GenerateResult, config: Config, *, as_json: bool = False, file: IO[str] | None = None
) -> None:
    """Print what a run made.

    Args:
        result: the run.
        config: its settings.
        as_json: one object instead of text.
        file: where to; None is standard output.
    """
    if as_json:
        text = json.dumps(_plain(result, config, _check(result, config)), indent=2)
        Console(file=file, soft_wrap=True).out(text, highlight=False)
        return

    console = Console(file=file, highlight=False)
    if result.signal is not None:
        console.print(result.message, markup=False)
        return
    console.print(
        f"Done in {result.seconds:.0f} s: {len(result.gaussians):,} Gaussians in {result.out}{_choice(result)}",
        markup=False,
    )
    console.print(_files(result))
    if result.answers:
        console.print("The critic says")
        console.print(_answers(result.answers))
    # It takes a second or two; what was made is told before.
    checked = _check(result, config)
    if checked is not None:
        console.print(_checker(checked), markup=False)
    console.print(f"Next: vlm3d-gs view {result.out}   (or html, mesh, convert)", markup=False)


def _files(result: GenerateResult) -> Table:
    table = Table.grid(padding=(0, 2))
    for path in result.files[:MOST_FILES]:
        size = path.stat().st_size / 1e6 if path.is_file() else 0.0
        name = path.relative_to(result.out) if path.is_relative_to(result.out) else path
        table.add_row(Text(f"  {name}"), f"{size:.1f} MB", opens_in(path))
    if len(result.files) > MOST_FILES:
        table.add_row(f"  and {len(result.files) - MOST_FILES} more", "", "")
    return table


def opens_in(path: Path) -> str:
    """Return where a product opens; empty for what no program shows."""
    return BY_NAME.get(path.name) or OPENS_IN.get(path.suffix.lower(), "")


def _answers(answers: Sequence[Answer]) -> Table:
    table = Table.grid(padding=(0, 2))
    for item in answers:
        # Without the words that tell a model how to answer.
        question = Text(item.question.removesuffix("Answer Yes or No.").strip())
        table.add_row(f"  {'Yes' if item.yes else 'No'}", f"{item.confidence:.0%}", question)
    return table


def _check(result: GenerateResult, config: Config) -> CompositionReport | SceneReport | None:
    """Return the checker's verdict on a scene of the embedded world.

    None for others, where there is no scene.ply, and without a critic: whoever wants no judge wants the file soon.
    """
    there = (result.out / PRODUCTS["ply"].file).is_file()
    if not there or not config.critic.enabled or not has_small_models_only(config):
        return None

    try:
        known = parse_prompt(config.prompt).composition
        if known is not None and not (result.out / LAYOUT_FILE).is_file():
            # The scene is in memory; reading it again would take longer than judging it.
            from vlm3d_gs.evaluate.composition import evaluate

            return evaluate(result.gaussians, known)
        from vlm3d_gs.evaluate.runs import evaluate_run

        return evaluate_run(result.out).report
    except Vlm3dGsError:
        return None  # a layout of other words: nothing to check against


def _checker(report: CompositionReport | SceneReport) -> str:
    from vlm3d_gs.evaluate.composition import verdict

    reasons = "".join(f"\n  {reason}" for reason in report.reasons)
    return f"The checker, which is no network, says: {verdict(report.content_right, report.clean)}{reasons}"


def _choice(result: GenerateResult) -> str:
    """Return which of several seeds won and why; empty for a run of one."""
    scores = result.out / CANDIDATES / "scores.json"
    try:
        found = json.loads(scores.read_text(encoding="utf-8"))
        picked = found.get("picked")
        listed = ", ".join(f"{seed}: {score:+.1f}" for seed, score in found["scores"].items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    if picked is None:
        return ""
    return (
        f"\nSeed {picked} won: questions that no run is optimised for had the highest mean log-odds of Yes "
        f"({listed})"
    )


def _plain(
    result: GenerateResult, config: Config, checked: CompositionReport | SceneReport | None
) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    try:
        summary = read_record(result.out).summary
    except Vlm3dGsError:
        pass  # nothing could be written there
    return {
        "folder": str(result.out),
        "prompt": config.prompt,
        "preset": config.preset,
        "seed": summary.get("seed", config.train.seed),
        "finished": result.signal is None and summary.get("finished", True),
        "steps": result.steps,
        "seconds": round(result.seconds, 2),
        "gaussians": len(result.gaussians),
        "files": [str(path) for path in result.files],
        "answers": [
            {**row, "yes": item.yes, "confidence": round(item.confidence, 4)}
            for row, item in zip(to_plain(result.answers), result.answers, strict=True)
        ],
        "checker": None if checked is None else checked.to_dict(),
    }

"""`vlm3d-gs compare`: groups of runs, judged and put on one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from vlm3d_gs.assembly.judges import build_judge, judge_model
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.notices import notice
from vlm3d_gs.evaluate.gpteval.ratings import Verdict
from vlm3d_gs.evaluate.groups import Group, RunFacts, duels, pairs_of, read_groups
from vlm3d_gs.evaluate.judges import Judge
from vlm3d_gs.evaluate.judges.lineage import check_other_family
from vlm3d_gs.evaluate.judges.memory import Remembering
from vlm3d_gs.evaluate.judging import Shown, ask_about, ask_which, score, show_scene
from vlm3d_gs.evaluate.report import report_data, turntable_sprite, write_report
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.runs.record import SPLAT

OWN_JUDGE = (
    "mini (held-out questions) is the embedded critic itself, asked in other words: where runs were optimised for it, "
    "it is no independent judge. The checker is one."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRequest:
    """What is asked for."""

    targets: tuple[Path, ...]
    """Runs, or folders of runs."""
    out: Path
    """The page."""
    judges: tuple[str, ...] = ()
    """As `assembly.judges.build_judge` takes them."""
    key_file: str | None = None
    """File with the server's key."""
    budget: int | None = None
    """Most questions for each judge."""
    own_critic: bool = False
    """Allow a judge of the family that runs were optimised for."""
    offline: bool = False
    """Never contact the hub."""


def compare(request: ComparisonRequest, say: Callable[[str], None]) -> dict[str, Any]:
    """Read, judge, and write the page; answers of judges are kept beside it.

    Args:
        request: what is asked for.
        say: takes lines for people.

    Returns:
        What was found, as plain data.

    Raises:
        ConfigError: fewer than two targets, or a judge that is none, or is the critic.
        InputFileError: a target holds no finished run.
        ModelError: a judge cannot be loaded, or its server refuses.
        ExportError: the page cannot be written.
    """
    if request.out.suffix.lower() != ".html":
        raise ConfigError(f"The page's name must end in .html, got {request.out.name!r}.")
    models = [judge_model(spec) for spec in request.judges]
    if len(set(models)) < len(models):
        raise ConfigError(f"A judge is named twice: {', '.join(models)}. Each needs to be another.")

    groups = read_groups(request.targets, lambda run: say(f"read {run.path}"))
    notes = _notes(request, models, groups)
    scenes = {run.path: read_splat(run.path / SPLAT) for group in groups for run in group.runs}
    sprites = [turntable_sprite(scene) for scene in scenes.values()]

    names: list[str] = []
    compared: dict[str, list[Verdict]] = {}
    shown = {path: show_scene(scene) for path, scene in scenes.items()} if models else {}
    for spec in request.judges:
        judge = build_judge(spec, key_file=request.key_file, offline=request.offline)
        known = Remembering(judge, request.out.with_suffix(".answers.jsonl"), request.budget)
        names.append(judge.name)
        _score_runs(known, groups, shown)
        if judge.writes:
            compared[judge.name] = _compare_runs(known, groups, shown)
        spent = known.spent
        say(
            f"{judge.name}: {spent.asked} asked, {spent.remembered} remembered, {spent.failed} without an answer, "
            f"{spent.left_out} left out"
        )

    data = report_data(groups, names, duels(groups, names, compared), notes)
    write_report(data, sprites, request.out)
    return data


def write_json(data: dict[str, Any], path: Path) -> None:
    """Write what a comparison found, without its pictures.

    Raises:
        ExportError: the folder does not exist.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _notes(request: ComparisonRequest, models: Sequence[str], groups: Sequence[Group]) -> list[str]:
    critics = {critic for group in groups for run in group.runs for critic in _critic(run)}
    notes = [OWN_JUDGE] if "mini" in models else []
    for model in models:
        if model == "mini":
            continue
        warning = check_other_family(model, critics, allowed=request.own_critic)
        if warning is not None:
            notice(warning)
            notes.append(warning)
    return notes


def _critic(run: RunFacts) -> set[str]:
    if run.settings.get("critic.enabled") == "false":
        return set()
    names = ("critic.family", "critic.model", "critic.server.model")
    values = {run.settings.get(name, "") for name in names}
    return values - {"", "null", "server"}


def _score_runs(judge: Judge, groups: Sequence[Group], shown: dict[Path, Shown]) -> None:
    runs = [run for group in groups for run in group.runs if run.prompt]
    for prompt in dict.fromkeys(run.prompt for run in runs):
        some = [run for run in runs if run.prompt == prompt]
        found = ask_about(judge, prompt, [shown[run.path] for run in some])
        for run, answers in zip(some, found, strict=True):
            if answers is not None:
                run.answers[judge.name], run.scores[judge.name] = answers, score(answers)


def _compare_runs(judge: Judge, groups: Sequence[Group], shown: dict[Path, Shown]) -> list[Verdict]:
    prompts = list(dict.fromkeys(run.prompt for group in groups for run in group.runs))
    verdicts = []
    for first, second in combinations(groups, 2):
        pairs = pairs_of(first, second)
        for number, prompt in enumerate(prompts):
            both = [
                (first.name, shown[one.path], second.name, shown[other.path])
                for one, other in pairs
                if one.prompt == prompt
            ]
            verdicts += ask_which(judge, prompt, both, number)
    return verdicts

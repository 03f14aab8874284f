"""`vlm3d-gs evaluate gpteval`: pictures of runs for GPTEval3D, judges asked about them, ratings with intervals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm3d_gs.assembly.judges import build_judge, judge_model
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.files import atomic_path, make_folder
from vlm3d_gs.core.notices import notice
from vlm3d_gs.evaluate.gpteval.dump import SIZE_PX, VIEWS, Source, dump_method
from vlm3d_gs.evaluate.gpteval.methods import check_name, find_methods, find_sources
from vlm3d_gs.evaluate.gpteval.play import Played, comparisons_json, play
from vlm3d_gs.evaluate.gpteval.schedule import Question, schedule
from vlm3d_gs.evaluate.gpteval.scores import (
    JudgeScores,
    judges_agree,
    report_json,
    score,
    scores_json,
    scores_text,
)
from vlm3d_gs.evaluate.gpteval.tournament import Tournament, read_tournament
from vlm3d_gs.evaluate.judges import Answer, Judge
from vlm3d_gs.evaluate.judges.lineage import check_other_family
from vlm3d_gs.evaluate.judges.memory import Remembering
from vlm3d_gs.runs.record import read_record

ANSWERS = "answers.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class TournamentRequest:
    """What is asked for."""

    runs: Path
    """Folder of runs."""
    folder: Path
    """The tournament's."""
    name: str | None = None
    """Of the method; None is the name of the folder of runs."""
    judges: tuple[str, ...] = ()
    """As `assembly.judges.build_judge` takes them; none only makes pictures."""
    key_file: str | None = None
    """File with the server's key."""
    whole: bool = False
    """Rate all methods anew; else the new one against the published ratings."""
    budget: int | None = None
    """Most questions for each judge."""
    out: Path | None = None
    """Folder of the results; None is `comparisons/NAME` of the tournament."""
    size_px: int = SIZE_PX
    """Side of the pictures."""
    seed: int = 0
    """Of the plan and the intervals."""
    own_critic: bool = False
    """Allow a judge of the family that the runs were optimised for."""
    offline: bool = False
    """Never contact the hub."""


def run_tournament(request: TournamentRequest, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Make the pictures, ask the judges, write and tell the results.

    Args:
        request: what is asked for.
        say: takes lines for people.

    Returns:
        The report as plain data; None without judges.

    Raises:
        ConfigError: nothing to compare, a bad name or judge, or one of the critic's own family.
        InputFileError: a file of the tournament or of a run cannot be read.
        ModelError: a judge cannot be loaded, or its server refuses.
        WriteError: the file system refuses.
    """
    tournament = read_tournament(request.folder)
    name = check_name(request.name or request.runs.resolve().name)
    warnings = _check_judges(request)
    _dump(request, tournament, name, say)
    if not request.judges:
        say(f"Pictures are in {tournament.methods / name}. Name a --judge to have them compared.")
        return None

    questions = _plan(request, tournament, name)
    out = request.out or tournament.folder / "comparisons" / name
    played: dict[str, Played] = {}
    scored: list[JudgeScores] = []
    for spec in request.judges:
        judge = build_judge(spec, key_file=request.key_file, offline=request.offline)
        known = Remembering(judge, out / ANSWERS, request.budget)
        places = {one: tournament.methods / one for one in find_methods(tournament)}
        found = play(tournament, questions, known, places, _Progress(len(questions), judge, say))
        played[judge.name] = found

        new = None if request.whole else name
        result = score(tournament, judge.name, found, known.spent, new, seed=request.seed)
        scored.append(result)
        _write_judge(out, tournament, found, result, alone=len(request.judges) == 1)
        say(scores_text(result, [] if request.whole else [name]))

    report = report_json(scored, judges_agree(played)) | {"warnings": warnings, "method": name}
    _write(out / "report.json", report)
    say(f"written to {out}")
    return report


def _check_judges(request: TournamentRequest) -> list[str]:
    """Refuse twins and judges of the critic's family; return the warnings of those that are allowed."""
    models = [judge_model(spec) for spec in request.judges]
    if len(set(models)) < len(models):
        raise ConfigError(f"A judge is named twice: {', '.join(models)}. Each needs to be another.")
    if "mini" in request.judges:
        raise ConfigError(
            "The embedded critic answers by Yes or No alone and cannot compare two pictures. Name a --judge that "
            "writes: server:MODEL@URL or model:ID; `vlm3d-gs compare` takes mini."
        )
    if not models:
        return []
    critics = set[str]()
    for run in request.runs.rglob("config.json"):
        critics |= _critics(read_record(run.parent).config)

    found = (check_other_family(one, critics, allowed=request.own_critic) for one in models)
    warnings = [warning for warning in found if warning is not None]
    for warning in warnings:
        notice(warning)
    return warnings


def _critics(config: dict[str, Any]) -> set[str]:
    """Return the critic that a run was optimised for, if it had one."""
    settings = config.get("config", config)
    critic = settings.get("critic") if isinstance(settings, dict) else None
    if not isinstance(critic, dict) or not critic.get("enabled", True):
        return set()
    family = str(critic.get("family", ""))
    server = critic.get("server")
    named = server.get("model") if family == "server" and isinstance(server, dict) else None
    return {str(one) for one in (critic.get("model"), named, family) if one and one != "server"}


def _dump(
    request: TournamentRequest, tournament: Tournament, name: str, say: Callable[[str], None]
) -> None:
    sources, others = find_sources(request.runs, tournament)
    if others:
        say(
            f"{len(others)} runs show no prompt of the tournament and are left out, e.g. {others[0]}"
        )

    def tell(source: Source, fresh: bool) -> None:
        done = f"{2 * VIEWS} pictures" if fresh else "is there"
        say(f"prompt {source.prompt_id}, scene {source.number}: {done}")

    dump_method(sources, tournament.methods / name, size_px=request.size_px, on_scene=tell)


def _plan(request: TournamentRequest, tournament: Tournament, name: str) -> list[Question]:
    available = find_methods(tournament)
    new = None if request.whole else name
    if new is not None and not any(tournament.frozen):
        raise ConfigError(
            f"{tournament.folder / 'config.json'} has no published scores to rate against. "
            "Rate all methods anew with --whole."
        )
    return schedule(tournament, available, new, budget=request.budget, seed=request.seed)


def _write_judge(
    out: Path, tournament: Tournament, played: Played, scores: JudgeScores, *, alone: bool
) -> None:
    """Write GPTEval3D's own files: of a single judge beside the report, of several in a folder each."""
    name = "".join(one if one.isalnum() or one in "._-" else "-" for one in scores.judge)
    folder = out if alone else out / name.lstrip(".")
    make_folder(folder)
    _write(folder / "comparisons.json", comparisons_json(played, tournament))
    _write(folder / "scores.json", scores_json(scores))


def _write(path: Path, data: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


class _Progress:
    """Says how far a judge has come, ten times in all."""

    def __init__(self, total: int, judge: Judge, say: Callable[[str], None]) -> None:
        self.total, self.judge, self.say, self.done = total, judge, say, 0

    def __call__(self, question: Question, answer: Answer) -> None:
        self.done += 1
        if self.done % max(1, self.total // 10) == 0:
            self.say(f"{self.judge.name}: {self.done} of {self.total} questions")

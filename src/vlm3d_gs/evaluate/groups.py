"""Groups of runs side by side: what each is like, who wins against whom, and what may be concluded from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import ConfigError, PromptError
from vlm3d_gs.evaluate.gpteval.ratings import Verdict, merge_orders, order_report
from vlm3d_gs.evaluate.runs import evaluate_run, find_runs
from vlm3d_gs.evaluate.statistics.bootstrap import Interval, mean_interval, prompt_means
from vlm3d_gs.evaluate.statistics.paired import holm, sign_flip_p
from vlm3d_gs.runs.record import Chart, RunRecord, charts, number, read_record

MOST_RUNS = 500
"""Runs on one page: each has its pictures in it."""
CHECKED = ("right", "content", "clean")
"""Verdicts of the checker: everything, objects and relations, cleanliness."""


@dataclass(eq=False)
class RunFacts:
    """One run of a group."""

    path: Path
    """Its folder."""
    prompt: str
    """What it should show."""
    seed: int | None
    """None if its config does not say."""
    seconds: float | None
    """Of the whole run; None if it was not finished."""
    steps: int | None
    """Done."""
    gaussians: int | None
    """In the exported scene."""
    settings: dict[str, str]
    """Settings by their dotted names."""
    charts: tuple[Chart, ...]
    """Curves."""
    checked: dict[str, Any] | None
    """The checker's verdict; None where it does not know the prompt's words."""
    scores: dict[str, float] = field(default_factory=dict)
    """By judge: the mean probability of Yes to the held-out questions."""
    answers: dict[str, dict[str, float]] = field(default_factory=dict)
    """By judge: the log-odds of Yes to each of them."""


@dataclass(eq=False)
class Group:
    """Runs that were made in one way."""

    name: str
    """Short name."""
    runs: list[RunFacts]
    """At least one."""


@dataclass(frozen=True, slots=True)
class Duel:
    """One group against another, by one measure."""

    first: str
    """Name of a group."""
    second: str
    """Name of another."""
    measure: str
    """A judge, `checker`, or a judge's comparison."""
    difference: Interval
    """Mean over prompts of first minus second."""
    wins: int
    """Pairs that the first wins; of a comparison, in both orders."""
    losses: int
    """Pairs that it loses."""
    ties: int
    """The others."""
    consistency: float | None
    """Share of pairs with the same winner in both orders; None where there is no order."""
    p: float
    """Of a paired test, one value for each prompt."""
    p_holm: float = 1.0
    """The same, corrected for the number of tests on the page."""


def read_groups(targets: Sequence[Path], on_run: Callable[[RunFacts], None]) -> list[Group]:
    """Read what is to be compared: each target is a run, or a folder of runs.

    Raises:
        ConfigError: fewer than two targets, or too many runs.
        InputFileError: a target holds no finished run, or a file of one is damaged.
    """
    if len(targets) < 2:
        raise ConfigError(
            f"A comparison needs at least two runs or folders of runs, got {len(targets)}."
        )
    found = [find_runs(target) for target in targets]
    total = sum(map(len, found))
    if total > MOST_RUNS:
        raise ConfigError(
            f"One page shows at most {MOST_RUNS} runs, got {total}. Name fewer folders."
        )

    groups = []
    for name, runs in zip(_names(targets), found, strict=True):
        group = Group(name, [])
        for run in runs:
            facts = _facts(run)
            group.runs.append(facts)
            on_run(facts)
        groups.append(group)
    return groups


def _names(targets: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart."""
    parts = [target.resolve().parts for target in targets]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"The same folder is named twice: {', '.join(map(str, targets))}.")


def _facts(run: Path) -> RunFacts:
    record = read_record(run)
    settings = record.config.get("config", record.config)
    train = settings.get("train") if isinstance(settings, dict) else None
    seed = train.get("seed") if isinstance(train, dict) else None
    steps, gaussians = (record.summary.get(name) for name in ("steps", "gaussians"))
    return RunFacts(
        path=run,
        prompt=record.prompt,
        seed=seed if isinstance(seed, int) else None,
        seconds=number(record.summary.get("seconds")),
        steps=steps if isinstance(steps, int) else None,
        gaussians=gaussians if isinstance(gaussians, int) else None,
        settings=flatten(settings) if isinstance(settings, dict) else {},
        charts=charts(record),
        checked=_checked(run, record),
    )


def _checked(run: Path, record: RunRecord) -> dict[str, Any] | None:
    """Return the checker's verdict, None where the prompt is outside its language."""
    if not record.prompt:
        return None
    try:
        report = evaluate_run(run).report
    except PromptError:
        return None
    return {
        "right": report.ok,
        "content": report.content_right,
        "clean": report.clean,
        "reasons": list(report.reasons),
    }


def flatten(settings: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return nested settings by dotted names, as text."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def differing_settings(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Return the settings in which groups differ: each group's values, joined where its runs differ themselves.

    What differs between all runs anyway (prompt, folder, seed) is left out.
    """
    names = dict.fromkeys(name for group in groups for run in group.runs for name in run.settings)
    differing = {}
    for name in names:
        if name in ("prompt", "out", "train.seed"):
            continue
        values = [
            " | ".join(dict.fromkeys(run.settings.get(name, "-") for run in group.runs))
            for group in groups
        ]
        if len(set(values)) > 1:
            differing[name] = values
    return differing


def summaries(groups: Sequence[Group], judges: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row a group: number of runs, seconds, and each measure with its interval over prompts."""
    rows = []
    for group in groups:
        measures: dict[str, Interval | None] = {
            f"checker: {kind}": _mean(group, partial(_share, kind=kind)) for kind in CHECKED
        }
        for judge in judges:
            measures[judge] = _mean(group, partial(_score, judge=judge))
        measures["seconds"] = _mean(group, lambda run: run.seconds)
        rows.append(
            {
                "group": group.name,
                "runs": len(group.runs),
                "prompts": len({run.prompt for run in group.runs}),
                "measures": {
                    name: None if found is None else asdict(found)
                    for name, found in measures.items()
                },
            }
        )
    return rows


def _share(run: RunFacts, kind: str) -> float | None:
    return None if run.checked is None else float(run.checked[kind])


def _score(run: RunFacts, judge: str) -> float | None:
    return run.scores.get(judge)


def _mean(group: Group, value: Callable[[RunFacts], float | None]) -> Interval | None:
    known = [(found, run.prompt) for run in group.runs if (found := value(run)) is not None]
    if not known:
        return None
    values, prompts = zip(*known, strict=True)
    return mean_interval(values, prompts)


def pairs_of(first: Group, second: Group) -> list[tuple[RunFacts, RunFacts]]:
    """Return the runs of both groups that show one prompt: of equal seeds where there are, else in order."""
    pairs = []
    for prompt in dict.fromkeys(run.prompt for run in first.runs):
        ours = [run for run in first.runs if run.prompt == prompt]
        theirs = [run for run in second.runs if run.prompt == prompt]
        seeds = {run.seed for run in ours} & {run.seed for run in theirs}
        if seeds and None not in seeds:
            ours, theirs = (
                sorted((run for run in some if run.seed in seeds), key=lambda run: run.seed or 0)
                for some in (ours, theirs)
            )
        pairs += list(zip(ours, theirs, strict=False))
    return pairs


def duels(
    groups: Sequence[Group], judges: Sequence[str], compared: Mapping[str, Sequence[Verdict]]
) -> list[Duel]:
    """Return every two groups against each other, by the checker, by each judge's scores, and by comparisons.

    Args:
        groups: all of them.
        judges: names of the judges with scores.
        compared: verdicts of judges that compare, both orders, between groups' names.
    """
    found = []
    for first, second in combinations(groups, 2):
        pairs = pairs_of(first, second)
        found += [
            duel
            for kind in CHECKED
            if (duel := _duel(first, second, pairs, f"checker: {kind}", partial(_share, kind=kind)))
        ]
        found += [
            duel
            for judge in judges
            if (duel := _duel(first, second, pairs, judge, partial(_score, judge=judge)))
        ]
        for judge, verdicts in compared.items():
            duel = _compared(first.name, second.name, judge, verdicts)
            found += [duel] if duel is not None else []

    corrected = holm({str(index): duel.p for index, duel in enumerate(found)})
    return [
        Duel(**{**_fields(duel), "p_holm": corrected[str(index)]})
        for index, duel in enumerate(found)
    ]


def _fields(duel: Duel) -> dict[str, Any]:
    return {name: getattr(duel, name) for name in Duel.__dataclass_fields__}


def _duel(
    first: Group,
    second: Group,
    pairs: Sequence[tuple[RunFacts, RunFacts]],
    measure: str,
    value: Callable[[RunFacts], float | None],
) -> Duel | None:
    """Return a duel by a number of each run; None where no pair has it."""
    differences, prompts = [], []
    for one, other in pairs:
        ours, theirs = value(one), value(other)
        if ours is not None and theirs is not None:
            differences.append(ours - theirs)
            prompts.append(one.prompt)
    if not differences:
        return None
    ties = sum(math.isclose(one, 0.0, abs_tol=1e-12) for one in differences)
    wins = sum(one > 1e-12 for one in differences)
    return Duel(
        first=first.name,
        second=second.name,
        measure=measure,
        difference=mean_interval(differences, prompts),
        wins=wins,
        losses=len(differences) - wins - ties,
        ties=ties,
        consistency=None,
        p=sign_flip_p(prompt_means(differences, prompts).tolist()),
    )


def _compared(first: str, second: str, judge: str, verdicts: Sequence[Verdict]) -> Duel | None:
    between = [one for one in verdicts if {one.first, one.second} == {first, second}]
    merged = merge_orders(between)
    if not merged:
        return None
    results = [{first: 1.0, second: -1.0, None: 0.0}[one.winner] for one in merged]
    prompts = [one.prompt_id for one in merged]
    return Duel(
        first=first,
        second=second,
        measure=f"{judge}, side by side",
        difference=mean_interval(results, prompts),
        wins=results.count(1.0),
        losses=results.count(-1.0),
        ties=results.count(0.0),
        consistency=order_report(between).consistency,
        p=sign_flip_p(prompt_means(results, prompts).tolist()),
    )

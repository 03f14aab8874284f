"""The table of quality: four ways to make a scene, each with and without critic, judged against ground truth.

    python benchmarks/quality.py --runs runs/quality                     all of it: days on two cores, see below
    python benchmarks/quality.py --runs runs/quality --sets pairs --budgets seconds --presets mini --seeds 1
    python benchmarks/quality.py --runs runs/quality --read-only --markdown docs/RESULTS.md

Registered before the first run, on 2026-11-28; whoever changes a line of it after that says so here and why.

    Ways      sds            recipe `sds`: score distillation alone, as DreamFusion's loss
              released       recipe `vlm3d-paper`: the released VLM3D
              distilled      ours by distillation: the preset with train.loop=distill
              ours           ours, targets and then fit: the preset as it is
    Critic    each way with it (+) and without (-). The released recipe without critic is its distillation alone; `sds`
              with critic has the preset's critic.
    Budgets   steps: the preset's number of steps for all ways. seconds: as many steps as take a way as long as `ours+`
              takes, from one calibration run of each on the same machine (calibration.json in the folder of the runs).
    Prompts   tests/golden/prompts.txt (pairs) and tests/golden/scenes.txt (scenes), 3 seeds.
    Presets   mini (the prior knows space) and mini-single (it does not).
    Measures  semantic: all objects right in colour and shape. spatial: the relations right. geometric: within all
              limits of cleanliness. All three by `evaluate composition`, which looks at the Gaussians alone.
    Analysis  means over prompts of the mean over seeds; 95 % intervals by resampling prompts; p by flipping signs of
              the paired differences of prompts, two-sided; Holm over all tests of the page.

    H1  ours+ against sds-, semantic, same seconds, mini: higher.
    H2  ours+ against released+, semantic, same seconds, mini: higher.
    H3  ours+ against distilled+, geometric, same seconds, mini: higher.
    H4  ours+ against ours-, spatial, same steps, mini: no difference is expected; the prior knows space.
    H5  ours+ against ours-, spatial, same steps, mini-single: higher.
    H6  ours+ against ours-, semantic, same seconds, mini-single: higher. If this fails, the critic is not worth its
        seconds there, and the page says so.

A run of a pair takes about a minute on two idle cores, so 24 prompts, one seed, 8 ways, one budget and one preset take
about 3 hours; the runs are ordered so that whatever is there when it is stopped is balanced over ways. Runs that are in
the folder are kept, and several processes can share the work (`--part 0/2`).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_composition import read_prompts
from harness import ROOT, record

from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.run import folder_name
from vlm3d_gs.evaluate.runs import evaluate_run
from vlm3d_gs.evaluate.statistics.bootstrap import Interval, mean_interval, prompt_means
from vlm3d_gs.evaluate.statistics.paired import holm, sign_flip_p

SETS = {"pairs": "prompts.txt", "scenes": "scenes.txt"}
BUDGETS, PRESETS, SEEDS = ("seconds", "steps"), ("mini", "mini-single"), 3
WAYS = ("sds", "released", "distilled", "ours")
METHODS = tuple(f"{way}{critic}" for way in WAYS for critic in "+-")
MEASURES = ("semantic", "spatial", "geometric")
YARDSTICK = "ours+"
"""The method whose seconds all have, with the budget `seconds`."""
CALIBRATION = "a red cube on top of a blue sphere"


@dataclass(frozen=True)
class Hypothesis:
    """A difference that was registered."""

    name: str
    first: str
    second: str
    measure: str
    budget: str
    preset: str
    expected: str


HYPOTHESES = (
    Hypothesis("H1", "ours+", "sds-", "semantic", "seconds", "mini", "higher"),
    Hypothesis("H2", "ours+", "released+", "semantic", "seconds", "mini", "higher"),
    Hypothesis("H3", "ours+", "distilled+", "geometric", "seconds", "mini", "higher"),
    Hypothesis("H4", "ours+", "ours-", "spatial", "steps", "mini", "no difference"),
    Hypothesis("H5", "ours+", "ours-", "spatial", "steps", "mini-single", "higher"),
    Hypothesis("H6", "ours+", "ours-", "semantic", "seconds", "mini-single", "higher"),
)


@dataclass(frozen=True)
class Case:
    """One run of the table."""

    set: str
    prompt: str
    seed: int
    method: str
    budget: str
    preset: str

    def folder(self, runs: Path) -> Path:
        """Return where it is made; `+` is spelt out."""
        method = self.method.replace("+", "-critic").removesuffix("-")
        name = f"{folder_name(self.prompt)}-{self.seed}"
        return runs / self.preset / self.budget / self.set / method / name


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Yield all runs: seeds outermost, methods innermost, so that any beginning compares all methods."""
    for seed in range(given.seeds):
        for chosen in given.presets:
            for budget in given.budgets:
                for name in given.sets:
                    prompts = read_prompts(ROOT / "tests" / "golden" / SETS[name])
                    for prompt in prompts[: given.prompts]:
                        for method in given.methods:
                            yield Case(name, prompt, seed, method, budget, chosen)


def command(case: Case, steps: int, out: Path) -> list[str]:
    """Return the command that makes a run."""
    way = case.method[:-1]
    options = ["--preset", case.preset, "--seed", str(case.seed), "--steps", str(steps)]
    options += {"sds": ["--recipe", "sds"], "released": ["--recipe", "vlm3d-paper"]}.get(way, [])
    options += ["--set", "train.loop=distill"] if way == "distilled" else []
    if case.method.endswith("+"):
        options += ["--set", "critic.enabled=true"]
    else:
        options += ["--no-critic"]
    options += ["--export", "ply", "--out", str(out), "--quiet", "--offline"]
    options += ["--overwrite"] if out.exists() else []
    return [sys.executable, "-m", "vlm3d_gs", "generate", case.prompt, *options]


def make(case: Case, steps: int, out: Path) -> bool:
    """Make a run, unless it is there; a failed one is said and left out."""
    if (out / "summary.json").is_file():
        return True
    out.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command(case, steps, out), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"FAILED {out}: {last}", flush=True)
    return done.returncode == 0


def steps_for(case: Case, given: argparse.Namespace) -> int:
    """Return the steps of a run: the preset's, or as many as fill the yardstick's seconds."""
    usual = int(given.steps or preset(case.preset, case.prompt).train.steps)
    if case.budget == "steps" or case.method == YARDSTICK:
        return usual
    path = given.runs / "calibration.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    for method in (YARDSTICK, case.method):
        key = f"{case.preset} {method} {usual}"
        if key not in known:
            trial = Case("pairs", CALIBRATION, 0, method, "calibration", case.preset)
            out = trial.folder(given.runs)
            if not make(trial, usual, out):
                return usual
            known[key] = json.loads((out / "summary.json").read_text())["seconds"]
            path.write_text(json.dumps(known, indent=1) + "\n")
    ratio = (
        known[f"{case.preset} {YARDSTICK} {usual}"] / known[f"{case.preset} {case.method} {usual}"]
    )
    return max(2, round(usual * ratio))


def measured(case: Case, out: Path) -> dict[str, Any]:
    """Return one row: what the checker says of a run, kept beside it."""
    path = out / "quality.json"
    if not path.is_file():
        report = evaluate_run(out).report
        spatial = report.relation_right
        found = {
            "semantic": float(all(thing.right for thing in report.objects)),
            "spatial": None if spatial is None else float(spatial),
            "geometric": float(report.clean),
        }
        path.write_text(json.dumps(found) + "\n")
    summary = json.loads((out / "summary.json").read_text())
    facts = {"steps": summary.get("steps"), "seconds": summary.get("seconds")}
    return {**case.__dict__, **json.loads(path.read_text()), **facts}


def chosen(rows: Sequence[dict[str, Any]], **wanted: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the rows with these values, by prompt and seed."""
    return {
        (row["prompt"], row["seed"]): row
        for row in rows
        if all(row[name] == value for name, value in wanted.items())
    }


def test(one: Hypothesis, rows: Sequence[dict[str, Any]]) -> tuple[Interval, float] | None:
    """Return the paired difference and its p; None without pairs."""
    sides = [
        chosen(rows, method=method, budget=one.budget, preset=one.preset)
        for method in (one.first, one.second)
    ]
    keys = [
        key
        for key in sides[0]
        if key in sides[1] and None not in (sides[0][key][one.measure], sides[1][key][one.measure])
    ]
    if not keys:
        return None
    differences = [sides[0][key][one.measure] - sides[1][key][one.measure] for key in keys]
    prompts = [prompt for prompt, _ in keys]
    p = sign_flip_p(prompt_means(differences, prompts).tolist())
    return mean_interval(differences, prompts), p


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the page."""
    lines = [
        "# Results",
        "",
        "Made by `benchmarks/quality.py`, which says what was registered before.",
    ]
    for name in PRESETS:
        for budget in BUDGETS:
            part = [row for row in rows if (row["preset"], row["budget"]) == (name, budget)]
            if part:
                lines += ["", f"## Preset {name}, same {budget}", "", *table(part)]
    return "\n".join([*lines, "", "## Hypotheses", "", *verdicts(rows), ""])


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return one row a method."""
    lines = [f"| method | runs | {' | '.join(MEASURES)} | steps | seconds |", "|---" * 7 + "|"]
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        if own:
            cells = [cell(own, measure) for measure in MEASURES]
            cells += [
                f"{sum(row[name] for row in own) / len(own):.0f}" for name in ("steps", "seconds")
            ]
            lines.append(f"| {method} | {len(own)} | {' | '.join(cells)} |")
    return lines


def cell(rows: Sequence[dict[str, Any]], measure: str) -> str:
    """Return a mean with its interval."""
    known = [(row[measure], row["prompt"]) for row in rows if row[measure] is not None]
    if not known:
        return ""
    values, prompts = zip(*known, strict=True)
    found = mean_interval(values, prompts)
    span = "" if found.low is None else f" ({found.low:.0%} to {found.high:.0%})"
    return f"{found.value:.0%}{span}"


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return one row a hypothesis, corrected for all of them."""
    found = {one: result for one in HYPOTHESES if (result := test(one, rows)) is not None}
    corrected = holm({one.name: p for one, (_, p) in found.items()})
    lines = ["| | question | expected | difference | p | Holm | |", "|---" * 7 + "|"]
    for one, (difference, p) in found.items():
        question = f"{one.first} - {one.second}, {one.measure}, same {one.budget}, {one.preset}"
        span = (
            "" if difference.low is None else f" ({difference.low:+.0%} to {difference.high:+.0%})"
        )
        sure = corrected[one.name] < 0.05 and not math.isclose(difference.value, 0.0)
        said = ("higher" if difference.value > 0 else "lower") if sure else "no difference shown"
        cells = (one.name, question, one.expected, f"{difference.value:+.0%}{span}")
        lines.append(f"| {' | '.join(cells)} | {p:.3f} | {corrected[one.name]:.3f} | {said} |")
    return lines


def main() -> None:
    """Make what is missing, measure all, write JSON and page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "quality")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--prompts", type=int, help="only so many prompts of each set")
    parser.add_argument("--steps", type=int, help="in place of the preset's, to try the script")
    parser.add_argument("--part", default="0/1", help="this share of the runs, e.g. 0/2")
    parser.add_argument("--read-only", action="store_true", help="make no runs")
    for name, values in (
        ("sets", SETS),
        ("budgets", BUDGETS),
        ("presets", PRESETS),
        ("methods", METHODS),
    ):
        parser.add_argument(f"--{name}", default=",".join(values))
    given = parser.parse_args()
    for name, values in (
        ("sets", SETS),
        ("budgets", BUDGETS),
        ("presets", PRESETS),
        ("methods", METHODS),
    ):
        setattr(given, name, getattr(given, name).split(","))
        if not set(getattr(given, name)) <= set(values):
            parser.error(f"--{name} takes {', '.join(values)}")

    part, parts = (int(number) for number in given.part.split("/"))
    given.runs.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, case in enumerate(cases(given)):
        out = case.folder(given.runs)
        there = (out / "summary.json").is_file()
        if not there and not given.read_only and number % parts == part:
            there = make(case, steps_for(case, given), out)
        if there:
            rows.append(measured(case, out))
            print(f"{case.method:11} {case.budget:8} {case.preset:12} {case.prompt}", flush=True)

    page = markdown(rows)
    print(page)
    if given.markdown is not None:
        given.markdown.write_text(page)
    print(record("quality", rows, given.out))


if __name__ == "__main__":
    main()

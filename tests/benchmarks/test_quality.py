"""The table of quality: what was registered, which runs it asks for, what it concludes; where reward and judge part."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vlm3d_gs.cli import app

MODULES = {"harness", "bench_composition", "quality", "hacking"}


@pytest.fixture
def quality(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import hacking
    import quality

    quality.hacking = hacking
    yield quality
    for name in MODULES - before:
        sys.modules.pop(name, None)


def given(quality: Any, **changed: Any) -> argparse.Namespace:
    values = {"seeds": 1, "prompts": 2, "steps": None, "sets": ["pairs"], "budgets": ["steps"]}
    values |= {"presets": ["mini"], "methods": list(quality.METHODS)}
    return argparse.Namespace(**{**values, **changed})


def test_any_beginning_of_the_runs_compares_all_methods(quality: Any) -> None:
    cases = list(quality.cases(given(quality)))
    assert len(cases) == 2 * 8
    assert {case.method for case in cases[:8]} == set(quality.METHODS)
    assert len({case.folder(Path("runs")) for case in cases}) == len(cases)


def test_every_hypothesis_is_about_runs_that_are_made(quality: Any) -> None:
    for one in quality.HYPOTHESES:
        assert {one.first, one.second} <= set(quality.METHODS)
        assert one.measure in quality.MEASURES
        assert one.budget in quality.BUDGETS
        assert one.preset in quality.PRESETS
        assert f"{one.name}  {one.first} against {one.second}" in quality.__doc__


def test_the_commands_are_accepted_by_the_command_line(quality: Any, tmp_path: Path) -> None:
    for case in list(quality.cases(given(quality, prompts=1))):
        words = quality.command(case, 5, tmp_path / "out")[3:]
        # Everything is read and checked before a run starts; the last word ends it there.
        done = CliRunner().invoke(app, [*words, "--set", "no.such=1"])
        assert done.exit_code == 2
        assert "no.such" in done.output or "'no'" in done.output, (case.method, done.output)


def invented(quality: Any, better: float) -> list[dict[str, Any]]:
    return [
        {
            **{
                "prompt": f"p{number}",
                "seed": 0,
                "method": method,
                "budget": "seconds",
                "preset": "mini",
            },
            **{"semantic": value, "spatial": None, "geometric": 1.0, "steps": 5, "seconds": 2.0},
        }
        for number in range(12)
        for method, value in (("ours+", better), ("sds-", 0.0))
    ]


def test_a_difference_is_found_where_there_is_one(quality: Any) -> None:
    page = quality.markdown(invented(quality, 1.0))
    assert "| ours+ | 12 | 100% (100% to 100%) |  | 100%" in page
    row = next(line for line in page.splitlines() if line.startswith("| H1 |"))
    assert row.endswith("| +100% (+100% to +100%) | 0.000 | 0.000 | higher |")
    assert "| H2 |" not in page
    assert "no difference shown" in quality.markdown(invented(quality, 0.0))


def test_where_reward_and_judge_part(quality: Any) -> None:
    parted = quality.hacking.parted_at
    assert parted({"steps": [1, 2, 3], "reward": [0, 1, 2], "held_out": [0, 3, 1]}) == 3
    assert parted({"steps": [1, 2, 3], "reward": [0, 1, 0.5], "held_out": [0, 3, 1]}) is None
    assert parted({"steps": [1, 2, 3], "reward": [0, 1, 2], "held_out": [0, 1, 2]}) is None
    assert quality.hacking.weight("mini", "a red cube", 10) == "linear:3.0@0.0,1.0@1.0"

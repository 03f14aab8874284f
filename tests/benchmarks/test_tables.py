"""The page of benchmarks shows what the result files contain."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def tables(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import tables

    yield tables
    sys.modules.pop("tables", None)


def test_the_page_is_what_the_files_say(tables: ModuleType) -> None:
    assert tables.PAGE.read_text() == tables.page(tables.FOLDER / "results"), (
        "run: python benchmarks/tables.py"
    )


def test_a_recorded_command_names_no_place_of_one_machine(
    tables: ModuleType, repo_root: Path
) -> None:
    from harness import portable

    assert portable("--runs") == "--runs"
    assert portable("runs/table") == "runs/table"
    assert portable(str(repo_root / "benchmarks" / "results")) == "benchmarks/results"
    assert portable("/somewhere/else/runs") == "runs"
    for path in (tables.FOLDER / "results").glob("*.json"):
        words = json.loads(path.read_text()).get("command", "").split()
        assert not any(word.startswith("/") for word in words), path.name


def test_the_newest_of_a_theme_is_shown_without_its_spread(
    tables: ModuleType, tmp_path: Path
) -> None:
    machine = {"gpu": None, "cores": 2, "cpu": "a cpu", "versions": {"torch": "2"}}
    for day, speed in (("01", 3.0), ("02", 2.5)):
        rows = [
            {"way": "ours|theirs", "sizes": [4, 64], "median_ms": speed, "best_ms": 1.0},
            {"error": "no time\nwas left"},
        ]
        content = {
            "theme": "some_thing",
            "time_utc": f"2026-01-{day}T00:00:00+00:00",
            "commit": "abc",
            "command": "python x.py",
            "machine": machine,
            "rows": rows,
        }
        (tmp_path / f"{day}.json").write_text(json.dumps(content))
    (tmp_path / "other.json").write_text("{}")
    page = tables.page(tmp_path)
    assert "## some thing: 2 cores, a cpu" in page
    assert "| way | sizes | median_ms |" in page
    assert "| ours/theirs | 4x64 | 2.5 |" in page
    assert "no time was left" in page
    assert "best_ms" not in page
    assert "| 3 |" not in page


def test_runs_of_variants_are_given_as_shares_and_means(tables: ModuleType) -> None:
    rows = [
        {"variant": "ours", "prompt": "a", "seed": 0, "right": True, "seconds": 2.0},
        {"variant": "none", "prompt": "a", "seed": 0, "right": False, "seconds": 1.0},
        {"variant": "ours", "prompt": "b", "seed": 1, "right": False, "seconds": 3.0},
    ]
    assert tables.by_variant(rows) == [
        {"variant": "ours", "runs": 2, "right": "50%", "seconds": 2.5},
        {"variant": "none", "runs": 1, "right": "0%", "seconds": 1.0},
    ]

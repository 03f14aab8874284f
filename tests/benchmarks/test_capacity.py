"""The simulation of many machines against what can be worked out by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("simpy", reason="simpy is not installed")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import capacity

QUIET = replace(
    capacity.Inputs(prompts=400, gpus=8),
    **dict.fromkeys(("spread", "crash", "slow_nodes", "item_s", "row_s"), 0.0),
    node_hours=1e9,
)


def test_without_trouble_the_time_is_that_of_the_arithmetic() -> None:
    world = capacity.World(QUIET).run()
    pull_s = QUIET.weights_gb / QUIET.pull_gb_s
    start_s = pull_s + QUIET.imports_s + QUIET.load_s + QUIET.first_s
    write_s = QUIET.puts / QUIET.puts_per_s
    asset_s = QUIET.asset_s + QUIET.files_s
    # The store serves the eight of a round one after the other, which shifts them for good.
    expected = start_s + 50 * (asset_s + write_s) + 7 * write_s
    assert world.done == 400
    assert world.ended_at == pytest.approx(expected, rel=1e-6)


def test_a_store_that_is_too_slow_sets_the_time_and_is_named() -> None:
    slow = replace(QUIET, puts_per_s=QUIET.puts / 5.0)
    world = capacity.World(slow).run()
    assert world.ended_at == pytest.approx(400 * 5.0, rel=0.05)
    assert capacity.row("slow", world)["gives first"] == "store"


def test_trouble_loses_time_and_no_asset() -> None:
    trouble = replace(QUIET, node_hours=0.1, crash=0.05, spread=0.3, gpus=24)
    world = capacity.World(trouble, seed=3).run()
    calm = capacity.World(replace(QUIET, gpus=24)).run()
    assert world.done == 400
    assert world.left == 0
    assert world.lost_s > 0.0
    assert world.ended_at > calm.ended_at


def test_the_same_seed_is_the_same_run() -> None:
    busy = replace(QUIET, node_hours=0.2, spread=0.3)
    assert capacity.World(busy, 1).run().ended_at == capacity.World(busy, 1).run().ended_at
    assert capacity.World(busy, 1).run().ended_at != capacity.World(busy, 2).run().ended_at


def test_the_page_holds_the_numbers_that_go_in(repo_root: Path) -> None:
    page = (repo_root / "docs" / "SCALE.md").read_text()
    assert capacity.inputs_table(capacity.Inputs()) in page


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"a\n{capacity.BEGIN}\nold\n{capacity.END}\nb\n")
    capacity.put_between(page, "new")
    assert page.read_text() == f"a\n{capacity.BEGIN}\nnew\n{capacity.END}\nb\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="no marks"):
        capacity.put_between(page, "new")

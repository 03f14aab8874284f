"""evaluate.runs: run folders read, judged, added up; the golden prompts are what they claim."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scenes import splats_for
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.prompts import COLORS, RELATIONS, SHAPES, parse_composition
from vlm3d_gs.evaluate.runs import (
    GROUPS,
    evaluate_run,
    find_runs,
    group_of,
    markdown_table,
    summarize,
)
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.mini.world.scenes import is_held_out


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for name, prompt, content in (
        ("a", "a red cube", "a red cube"),
        ("b", "a red cube", "a red cone"),
    ):
        (root / name).mkdir()
        write_splat(splats_for(content), root / name / "scene.ply")
        config = {"config": {"prompt": prompt, "train": {"seed": 7}}, "commit": "x"}
        (root / name / "config.json").write_text(json.dumps(config))
    return root


def test_rows_groups_and_table(root: Path) -> None:
    rows = [evaluate_run(folder) for folder in find_runs(root)]
    assert [row.run for row in rows] == ["a", "b"]
    assert [row.report.content_right for row in rows] == [True, False]
    assert rows[0].seed == 7
    assert json.loads(json.dumps(rows[0].to_dict()))["report"]["ok"] is True
    (group,) = summarize(rows)
    assert (group.group, group.runs, group.content_right) == ("one object", 2, 0.5)
    assert group.relation_right is None
    table = markdown_table(rows)
    assert "| one object | 2 | 50% |  | 50% |" in table
    assert "looks like a cone" in table


def test_missing_parts_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"config\.json"):
        evaluate_run(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputFileError, match="no prompt"):
        evaluate_run(tmp_path)
    with pytest.raises(InputFileError, match="no finished run"):
        find_runs(tmp_path)
    with pytest.raises(InputFileError, match="no finished run"):
        find_runs(root / "none")


def test_golden_prompts_are_8_singles_10_seen_and_6_held_out_pairs(golden: Path) -> None:
    lines = (golden / "prompts.txt").read_text().splitlines()
    prompts = [parse_composition(line) for line in lines if line and not line.startswith("#")]
    groups = [group_of(prompt) for prompt in prompts]
    assert [groups.count(name) for name in GROUPS[:3]] == [8, 10, 6]
    assert {item.color for prompt in prompts for item in prompt.objects} == set(COLORS)
    assert {item.shape for prompt in prompts for item in prompt.objects} == set(SHAPES)
    held_out = [prompt for prompt in prompts if is_held_out(prompt)]
    assert {prompt.relation for prompt in held_out} == set(RELATIONS)
    assert len({str(prompt) for prompt in prompts}) == 24

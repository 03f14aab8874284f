"""evaluate.scene: several things, counted and sized, right where they are and wrong where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evaluate.spoiled_scenes import SPOILS, splat_of, things_of
from vlm3d_gs.core.errors import PromptError
from vlm3d_gs.evaluate.runs import SCENE_GROUPS, group_of_scene
from vlm3d_gs.evaluate.scene import evaluate_scene
from vlm3d_gs.layout.grammar import parse_scene
from vlm3d_gs.layout.graph import RELATIONS
from vlm3d_gs.layout.solver import Layout, solve_layout


def layout_of(prompt: str) -> Layout:
    return solve_layout(parse_scene(prompt))


def test_a_perfect_scene_is_right_and_its_boxes_are_those_of_the_layout() -> None:
    layout = layout_of(
        "two red cubes to the left of a small blue sphere, a green torus behind the blue sphere"
    )
    report = evaluate_scene(splat_of(things_of(layout)), layout.graph)
    assert report.ok, report.reasons
    assert report.counts == {"red_cube": 2, "blue_sphere": 1, "green_torus": 1}
    assert report.relation_right
    measured = sorted(report.boxes, key=lambda box: (box.name, box.center[1]))
    wanted = sorted(layout.boxes, key=lambda box: (box.name, box.center[1]))
    for one, other in zip(measured, wanted, strict=True):
        assert one.center == pytest.approx(other.center, abs=0.04)
        assert one.size == pytest.approx(other.size, rel=0.12)
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["ok"] is True
    assert plain["boxes"][0]["name"] == "red_cube"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("swapped", "not so: the red cube is to the left of the green cone"),
        ("mirrored", "not so: the red cube is on top of the large blue sphere"),
        ("missing", "no red cube"),
        ("doubled", "there are 2"),
        ("wrong size", "should be clearly larger"),
        ("wrong shape", "blue sphere: looks like a cylinder"),
    ],
)
def test_a_spoiled_scene_is_wrong_for_its_reason(spoil: str, reason: str) -> None:
    layout = layout_of("a red cube to the left of a green cone, on top of a large blue sphere")
    things = SPOILS[spoil](layout)
    assert things is not None
    report = evaluate_scene(splat_of(things), layout.graph)
    assert not report.content_right
    assert any(reason in one for one in report.reasons), report.reasons


def test_a_thing_that_is_mostly_hidden_is_not_called_dented() -> None:
    graph = parse_scene("a tiny white cube inside a large purple torus")
    things = things_of(solve_layout(graph))
    report = evaluate_scene(splat_of(things), graph)
    assert report.ok, report.reasons

    # What is bitten out of the corner that shows is not explained away.
    splat = splat_of(things)
    cube = next(thing for thing in things if thing.shape == "cube")
    corner = torch.tensor(cube.center) + 0.8 * cube.size * torch.tensor([0.5, 0.5, 1.0])
    bitten = (splat.means - corner).norm(dim=-1) < 1.0 * cube.size
    assert not evaluate_scene(splat.select(~bitten), graph).ok


def test_an_empty_scene_is_simply_not_right() -> None:
    layout = layout_of("two red cubes")
    scene = splat_of(things_of(layout))
    report = evaluate_scene(scene.select(scene.opacity_logits > 99.0), layout.graph)
    assert not report.content_right
    assert report.counts == {"red_cube": 0}


def test_things_of_any_words_are_refused() -> None:
    layout = layout_of("a red cube")
    with pytest.raises(PromptError, match="a wooden chair"):
        evaluate_scene(splat_of(things_of(layout)), parse_scene("a wooden chair", embedded=False))


def test_golden_scenes_are_eight_of_each_group_and_can_be_laid_out(golden: Path) -> None:
    lines = (golden / "scenes.txt").read_text().splitlines()
    graphs = [parse_scene(line) for line in lines if line and not line.startswith("#")]
    groups = [group_of_scene(graph) for graph in graphs]
    # Some of three objects have a size word, too; the file's order says for what each is there.
    assert [
        groups[start : start + 8].count(SCENE_GROUPS[start // 8]) >= 7 for start in (0, 8, 16, 24)
    ] == [True] * 4
    assert {one.relation for graph in graphs for one in graph.relations} >= set(RELATIONS)
    assert {item.count for graph in graphs for item in graph.objects} == {1, 2, 3, 4}
    assert {item.size for graph in graphs for item in graph.objects} == {
        "tiny",
        "small",
        "normal",
        "large",
    }
    for graph in graphs:
        solve_layout(graph)

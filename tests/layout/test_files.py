"""layout.schema, layout.files: the published schema, and JSON that is read strictly and given back."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from vlm3d_gs.core.errors import InputFileError, LayoutError
from vlm3d_gs.layout.files import layout_from_plain, layout_text, read_layout, write_layout
from vlm3d_gs.layout.grammar import parse_scene
from vlm3d_gs.layout.graph import RELATIONS, SIZES, Relation, SceneObject
from vlm3d_gs.layout.schema import (
    OBJECT,
    RELATION,
    graph_from_plain,
    graph_to_plain,
    model_schema,
    published_schema,
)
from vlm3d_gs.layout.solver import solve_layout

PROMPT = "a small red cube on top of a blue sphere, to the left of a large green cone"


def plain(**changes: Any) -> dict[str, Any]:
    return {**json.loads(layout_text(solve_layout(parse_scene(PROMPT)))), **changes}


def test_the_published_schema_is_the_one_in_use(repo_root: Path) -> None:
    page = (repo_root / "docs" / "scene-layout.schema.json").read_text()
    assert page == published_schema(), "vlm3d-gs layout --schema > docs/scene-layout.schema.json"
    assert set(OBJECT["properties"]) == {field.name for field in fields(SceneObject)}
    assert set(RELATION["properties"]) == {field.name for field in fields(Relation)}
    assert RELATION["properties"]["relation"]["enum"] == list(RELATIONS)
    assert OBJECT["properties"]["size"]["enum"] == list(SIZES)


def test_the_schema_for_models_is_strict_all_the_way_down() -> None:
    def check(schema: dict[str, Any]) -> None:
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is False
            assert schema["required"] == list(schema["properties"])
            for one in schema["properties"].values():
                check(one)
        if "items" in schema:
            check(schema["items"])

    check(model_schema())
    assert "boxes" not in model_schema()["properties"]


def test_a_file_gives_the_layout_back(tmp_path: Path) -> None:
    layout = solve_layout(parse_scene("two red cubes between a blue sphere and a green cone"))
    write_layout(layout, tmp_path / "layout.json")
    again = read_layout(tmp_path / "layout.json")
    assert again.graph == layout.graph
    for one, other in zip(again.boxes, layout.boxes, strict=True):
        assert one[:2] == other[:2]
        assert one.center == pytest.approx(other.center, abs=1e-6)


def test_boxes_are_kept_as_edited_and_found_anew_when_left_out() -> None:
    data = plain()
    cone = next(box for box in data["boxes"] if box["object"] == "green_cone")
    cone["center"][0] += 0.01
    assert layout_from_plain(data).boxes[2].center[0] == pytest.approx(cone["center"][0])

    del data["boxes"]
    assert layout_from_plain(data).boxes == solve_layout(parse_scene(PROMPT)).boxes


def test_edited_boxes_that_break_a_sentence_are_refused() -> None:
    data = plain()
    for box in data["boxes"]:
        box["center"][1] *= -1.0
    with pytest.raises(
        LayoutError, match="'the small red cube is to the left of the large green cone"
    ):
        layout_from_plain(data)


def test_a_graph_is_its_plain_data() -> None:
    graph = parse_scene(PROMPT)
    assert graph_from_plain(json.loads(json.dumps(graph_to_plain(graph)))) == graph
    short = {"objects": [{"name": "a", "prompt": "a red cube"}]}
    assert graph_from_plain(short, "the prompt").prompt == "the prompt"


def changed(*path: Any, to: Any) -> dict[str, Any]:
    data = plain()
    here = data
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = to
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the layout must be of type object, got []"),
        ({}, "the layout lacks 'objects'"),
        ({"objects": []}, "objects of the layout must have 1 to 8 entries, got 0"),
        (changed("object", to=[]), "the layout has no field 'object'. Known: prompt, objects"),
        (changed("objects", 1, "count", to=5), "must be 1 to 4, got 5"),
        (changed("objects", 1, "count", to=True), "must be of type integer, got True"),
        (
            changed("objects", 1, "size", to="huge"),
            "must be one of tiny, small, normal, large, got 'huge'",
        ),
        (changed("objects", 1, "name", to="../x"), "must match"),
        (changed("objects", 1, "name", to="red_cube"), "2 objects are named 'red_cube'"),
        (changed("objects", 1, "proportions", to=[1, 2]), "must have 3 entries, got 2"),
        (changed("objects", 1, "proportions", to=[1, 1, 0]), "must be 0.05 to 1, got 0"),
        (changed("relations", 0, "relation", to="left"), "must be one of on top of, under"),
        (changed("relations", 0, "object", to="none"), "names 'none', which is no object"),
        (changed("relations", 0, "object", to="red_cube"), "in a relation to itself"),
        (changed("relations", 0, "relation", to="between"), "needs a second neighbour"),
        (changed("boxes", 0, "center", to=[0, 0, 2]), "must be -1 to 1, got 2"),
        (changed("boxes", 0, "number", to=1), "missing: red_cube 0"),
        (changed("boxes", 0, "center", to=[0.9, 0.9, 0.9]), "inside the unit ball"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_allowed(data: Any, message: str) -> None:
    with pytest.raises(LayoutError) as caught:
        layout_from_plain(data)
    assert message in str(caught.value)


def test_files_that_are_no_layouts_are_named(tmp_path: Path) -> None:
    path = tmp_path / "layout.json"
    with pytest.raises(InputFileError, match="Cannot read the layout"):
        read_layout(path)
    for text in ("{", '{"objects": NaN}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputFileError):
            read_layout(path)
    path.write_text("{}")
    with pytest.raises(LayoutError, match="layout.json: the layout lacks 'objects'"):
        read_layout(path)

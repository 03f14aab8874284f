"""`vlm3d-gs layout`: printed, drawn, edited, given back."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from vlm3d_gs.cli import app
from vlm3d_gs.layout.schema import published_schema

RUNNER = CliRunner()
PROMPT = "a red cube to the left of two small blue spheres"


def test_a_layout_is_printed_drawn_and_given_back(tmp_path: Path) -> None:
    shown = RUNNER.invoke(app, ["layout", PROMPT, "--out", str(tmp_path / "a")])
    assert shown.exit_code == 0, shown.output
    assert "holds: the red cube is to the left of the two small blue spheres" in shown.output
    assert (tmp_path / "a" / "layout.png").is_file()

    file = tmp_path / "a" / "layout.json"
    data = json.loads(file.read_text())
    data["relations"][0]["relation"] = "to the right of"
    kept = RUNNER.invoke(app, ["layout", "--layout", str(_written(tmp_path, data))])
    assert kept.exit_code == 2
    assert "its boxes are not as it says" in kept.output

    del data["boxes"]
    moved = RUNNER.invoke(app, ["layout", "--layout", str(_written(tmp_path, data)), "--json"])
    assert moved.exit_code == 0, moved.output
    boxes = json.loads(moved.stdout)["boxes"]
    assert boxes[0]["center"][1] > boxes[1]["center"][1]


def _written(folder: Path, data: object) -> Path:
    path = folder / "edited.json"
    path.write_text(json.dumps(data))
    return path


def test_nothing_is_replaced_unless_asked(tmp_path: Path) -> None:
    arguments = ["layout", PROMPT, "--out", str(tmp_path)]
    assert RUNNER.invoke(app, arguments).exit_code == 0
    again = RUNNER.invoke(app, arguments)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    assert RUNNER.invoke(app, [*arguments, "--overwrite"]).exit_code == 0


def test_mistakes_are_one_line_with_exit_code_2() -> None:
    for arguments, message in (
        ([], "Give a prompt"),
        (["a red dragon"], "not one colour and one shape"),
        ([PROMPT, "--from-model"], "The embedded critic"),
        (
            ["a red cube behind a blue cone, the blue cone is behind the red cube"],
            "cannot hold together",
        ),
        (["--layout", "none.json"], "Cannot read the layout"),
    ):
        result = RUNNER.invoke(app, ["layout", *arguments])
        assert result.exit_code == 2, result.output
        assert message in result.output


def test_the_schema_is_printed() -> None:
    assert RUNNER.invoke(app, ["layout", "--schema"]).stdout == published_schema()

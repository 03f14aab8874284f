"""The scripts of examples/ run as they are, with few steps."""

from __future__ import annotations

import json
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import vlm3d_gs
from vlm3d_gs.core.images import load_png

STEPS = 3
QUICK = {
    "train.steps": 2,
    "scene.n_init": 300,
    "densify.enabled": False,
    "reconstruct.first_chain_steps": 1,
    "reconstruct.candidates": 1,
    "reconstruct.n_groups": 1,
    "export.turntable_s": 0.2,
    "export.turntable_px": 32,
}
EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 50


def load(name: str) -> ModuleType:
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("examples") / "run"
    load("01_generate_and_look").main(out, steps=STEPS)
    return out


def test_the_first_makes_a_splat_and_a_picture(first_run: Path) -> None:
    assert len(vlm3d_gs.read_splat(first_run / "scene.spz")) > 1000
    picture = load_png(first_run / "look.png")
    assert picture.shape[1] > 4 * 256
    assert float(picture.min()) < 0.9, "not an empty background"


def test_the_second_has_its_own_guidance_in_the_log(tmp_path: Path) -> None:
    scene = load("02_own_guidance").main(tmp_path / "run", steps=STEPS)
    assert len(scene) > 1000
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == STEPS
    assert all('"fit/loss"' in row for row in rows)
    assert all('"yellow/loss"' in row for row in rows[::2]), "at every fit to the newest pictures"


def test_the_third_converts_and_renders(first_run: Path, tmp_path: Path) -> None:
    load("03_convert_and_render").main(first_run / "scene.ply", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"front.png", "depth.png", "scene.spz"}


def test_the_notebook_runs_cell_by_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Python itself, which needs no kernel; the value of a cell is shown as a notebook would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vlm3d_gs, "generate", partial(vlm3d_gs.generate, settings=QUICK))
    notebook = json.loads((EXAMPLES / "04_notebook.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for number, source in enumerate(cells, 1):
        exec(compile(source, f"cell {number}", "exec"), names)

    result, printed = names["result"], capsys.readouterr().out
    assert result._repr_html_().startswith('<video autoplay loop muted playsinline src="data:video')
    assert "Is there a red cube?" in printed
    assert "Gaussians(300, SH degree 0, float32 on cpu)" in printed
    assert {"scene.spz", "scene-page.html", "turn.webp"} <= {
        path.name for path in result.folder.iterdir()
    }


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= LONGEST, path.name

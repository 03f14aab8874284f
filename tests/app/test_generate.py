"""The Python face: one call, and a result to look at and to save."""

from __future__ import annotations

import webbrowser
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vlm3d_gs
from splat_files import random_splat
from vlm3d_gs.app import generate as face
from vlm3d_gs.app.result import MESH_SUFFIXES, Result
from vlm3d_gs.config import Config
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError, ExportError
from vlm3d_gs.formats.registry import SPLAT_SUFFIXES
from vlm3d_gs.mesh.writers import SUFFIXES
from vlm3d_gs.pipeline import GenerateResult
from vlm3d_gs.runs.answers import Answer, from_summary, to_plain
from vlm3d_gs.runs.folder import free_folder, newest_folder
from vlm3d_gs.runs.log import write_config


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Configs that reach the pipeline, which is left out here; test_examples runs it."""
    monkeypatch.chdir(tmp_path)
    configs: list[Config] = []

    def made(config: Config, **_: Any) -> GenerateResult:
        configs.append(config)
        config.out.mkdir(parents=True)
        write_config(config.out, config)
        answer = Answer("semantic", "Is it a red cube?", 3.0)
        return GenerateResult(random_splat(50, 0), config.out, (), 1, 0.1, answers=(answer,))

    monkeypatch.setattr(face, "generate_whole", made)
    return configs


def test_a_sentence_is_enough_and_everything_can_be_said(asked: list[Config]) -> None:
    first = vlm3d_gs.generate("a red cube")
    assert asked[0] == preset("mini", "a red cube")
    assert (first.folder, first.scene) == (Path("runs/a-red-cube"), first.gaussians)

    settings = {"critic.enabled": False}
    vlm3d_gs.generate("a red cube", preset="mini-draft", seed=3, out="there", settings=settings)
    assert (asked[1].preset, asked[1].train.seed, asked[1].critic.enabled) == (
        "mini-draft",
        3,
        False,
    )
    assert asked[1].out == Path("there")

    again = vlm3d_gs.generate("a red cube")
    assert again.folder == Path("runs/a-red-cube-2")
    assert newest_folder(Path("runs/a-red-cube")) == again.folder


def test_a_config_is_taken_as_it_is(asked: list[Config]) -> None:
    config = preset("mini", "a red cube")
    assert vlm3d_gs.generate(config).config == config == asked[0]
    assert vlm3d_gs.generate(replace(config, out=Path("b")), seed=5).config.train.seed == 5
    with pytest.raises(ConfigError, match="has its preset already"):
        vlm3d_gs.generate(config, preset="sd")
    with pytest.raises(ConfigError, match="takes a sentence or a Config, got int"):
        vlm3d_gs.generate(3)  # type: ignore[arg-type]


def test_what_is_made_object_by_object_takes_no_guidances(asked: list[Config]) -> None:
    with pytest.raises(ConfigError, match="made one by one"):
        vlm3d_gs.generate("two red cubes", until=3)


def test_a_result_is_saved_by_suffix_and_never_over_a_file(asked: list[Config]) -> None:
    cube = vlm3d_gs.generate("a red cube")
    for name in ("a.spz", "a.ply", "a.compressed.ply", "a.html", "a.png"):
        assert cube.save(name).is_file()
    with pytest.raises(
        ExportError, match=r"a.spz exists already. Give another name, or --overwrite"
    ):
        cube.save("a.spz")
    assert cube.save("a.spz", overwrite=True) == Path("a.spz")
    with pytest.raises(ExportError, match=r"must end in one of .*\.obj.*\.html"):
        cube.save("a.docx")
    assert set(MESH_SUFFIXES) == set(SUFFIXES) - set(SPLAT_SUFFIXES)


def test_show_opens_a_page_or_speaks_to_the_notebook(
    asked: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    cube = vlm3d_gs.generate("a red cube")
    cube.show()
    assert opened == [(cube.folder / "scene.html").resolve().as_uri()]

    shown: list[str] = []
    display = SimpleNamespace(HTML=str, display=shown.append)
    notebook = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1), display=display)
    monkeypatch.setitem(__import__("sys").modules, "IPython", notebook)
    (cube.folder / "turntable.mp4").write_bytes(b"film")
    cube.show()
    assert shown == [cube._repr_html_()]
    assert len(opened) == 1


def test_results_and_scenes_are_one_line(asked: list[Config]) -> None:
    cube = vlm3d_gs.generate("a red cube")
    assert repr(cube.scene) == "Gaussians(50, SH degree 0, float32 on cpu)"
    assert repr(cube) == (
        "Result('a red cube': Gaussians(50, SH degree 0, float32 on cpu) in runs/a-red-cube; "
        "semantic Yes (95%))"
    )
    assert isinstance(cube, Result)
    assert repr(vlm3d_gs.orbit([0, 90], 0, 3, 40, 8, 6)) == "Cameras(2, 8 x 6 px on cpu)"


def test_a_folder_with_anything_in_it_is_taken(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "a"
    assert free_folder(out) == newest_folder(out) == out
    out.mkdir(parents=True)
    assert free_folder(out) == out, "empty"
    (out / ".lock").touch()
    assert free_folder(out) == tmp_path / "runs" / "a-2", "somebody is about to write there"
    (tmp_path / "runs" / "a-2").touch()
    assert free_folder(out) == tmp_path / "runs" / "a-3"


def test_answers_survive_json_and_damage() -> None:
    answers = (Answer("a", "A?", 2.0), Answer("b", "B?", -800.0))
    assert from_summary({"answers": to_plain(answers)}) == answers
    assert [str(item) for item in answers] == ["Yes (88%)", "No (100%)"]
    assert (
        from_summary({"answers": [3, {"name": "a"}, {"name": 1, "question": 2, "log_odds": None}]})
        == ()
    )
    assert from_summary({}) == from_summary({"answers": "?"}) == ()

"""A person's path through the studio, from a sentence to a file on their disk, in a real browser."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from browser import Page, chromium
from splat_files import random_splat
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.core.images import save_png
from vlm3d_gs.core.prompts import parse_composition
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.mini.world.scenes import build_scene
from vlm3d_gs.mini.world.splats import scene_to_gaussians
from vlm3d_gs.runs.answers import Answer
from vlm3d_gs.runs.log import write_config, write_json
from vlm3d_gs.studio import workshop as workshop_module
from vlm3d_gs.studio.page import NOTHING_YET, Studio, in_words
from vlm3d_gs.studio.workshop import EXPORTS, NO_CRITIC, Shown, Workshop

PATIENCE_S = 300.0
"""Only a studio that hangs takes as long, on any machine."""
QUICK = {
    "train.steps": 3,
    "train.preview_every": 0.0,
    "scene.n_init": 300,
    "densify.enabled": False,
    "reconstruct.first_chain_steps": 1,
    "reconstruct.candidates": 1,
    "reconstruct.n_groups": 1,
    "critic.watch.enabled": False,
    "export.formats": "ply,sheet",
}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder with one finished run."""
    out = tmp_path / "runs" / "a-red-cube"
    out.mkdir(parents=True)
    scene = build_scene(parse_composition("a red cube"))
    write_splat(
        scene_to_gaussians(scene, 1000, torch.Generator().manual_seed(0)), out / "scene.ply"
    )
    write_config(out, preset("mini", "a red cube"))
    answers = [{"name": "semantic", "question": "Is it? Answer Yes or No.", "log_odds": 3.0}]
    write_json(out / "summary.json", {"answers": answers})
    return out.parent


def test_the_gallery_opens_runs_and_files_and_nothing_else(finished: Path) -> None:
    workshop = Workshop(finished)
    (finished / "unfinished").mkdir()
    assert workshop.gallery() == ["a-red-cube"]
    shown = workshop.open_run("a-red-cube")
    assert (shown.title, len(shown.scene)) == ("a red cube", 1000)
    assert in_words(shown.answers) == "Yes (95%): Is it?"
    with pytest.raises(ConfigError, match="no finished run"):
        workshop.open_run("../a-red-cube")

    content = (finished / "a-red-cube" / "scene.ply").read_bytes()
    assert len(workshop.open_upload("../../etc/cube.ply", content).scene) == 1000
    with pytest.raises(InputFileError):
        workshop.open_upload("cube.ply", b"hello")
    assert Workshop(finished / "nowhere").gallery() == []


def test_every_export_has_a_name_and_content(finished: Path) -> None:
    shown = Workshop(finished).open_run("a-red-cube")
    for choice, export in EXPORTS.items():
        if export.suffix in ("-turntable.mp4", ".usdc") or export.suffix.startswith("-mesh"):
            continue  # their rooms test them; the studio only calls
        name, content = Workshop.export(shown, choice)
        assert name == f"a-red-cube{export.suffix}"
        assert content


def test_a_new_run_gets_a_folder_of_its_own_and_the_settings_asked_for(finished: Path) -> None:
    workshop = Workshop(finished)
    config = workshop.configure(" a red cube ", "mini-draft", 5, NO_CRITIC)
    assert config.out == finished / "a-red-cube-2"
    assert (config.preset, config.train.seed, config.critic.enabled) == ("mini-draft", 5, False)
    with pytest.raises(ConfigError, match="empty"):
        workshop.configure("  ", "mini", 0)


def test_errors_are_shown_on_the_page(finished: Path) -> None:
    with Studio(finished) as studio:
        studio._wish.value = "a corgi"
        studio.generate()
        studio.workshop.wait(PATIENCE_S)
        assert studio._status.value.startswith("Not made: The embedded mini models cannot draw")
        assert studio._runs.value == "a-red-cube"
        studio.show(Shown("x", random_splat(5, 0), answers=(Answer("a", "A?", -1.0),)))
        assert studio._answers.value == "No (73%): A?"


def test_what_is_shown_is_refined_and_stays_where_it_cannot_be(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        workshop_module,
        "preset",
        lambda name, prompt: apply_settings(
            preset(name, prompt),
            {**QUICK, "critic.watch.enabled": True, "train.steps": 4},
        ),
    )
    with Studio(finished) as studio:
        studio.refine()
        assert studio._status.value.startswith("There is nothing to refine yet")

        content = (finished / "a-red-cube" / "scene.ply").read_bytes()
        studio.show(studio.workshop.open_upload("cube.ply", content))
        studio._better_wish.value = "a red cube"
        studio.refine()
        studio.workshop.wait(PATIENCE_S)
        assert "the held-out judge goes from" in studio._status.value
        # What the judge preferred is shown, and can be taken away.
        accepted = studio._status.value.startswith("refined")
        title = "cube, refined" if accepted else "cube.ply"
        before = studio.workshop.open_upload("cube.ply", content).scene
        assert torch.equal(studio._shown.scene.means, before.means) is not accepted
        assert studio._prompt.value == title
        assert studio._pause.disabled

        studio._better_wish.value = "a corgi"
        studio.refine()
        studio.workshop.wait(PATIENCE_S)
        assert studio._status.value.startswith("Not made: The embedded mini models cannot draw")
        assert studio._prompt.value == title


def press(page: Page, words: str) -> None:
    """Press a button once it can be pressed: a click on a disabled one is lost without a word."""
    button = f"[...document.querySelectorAll('button')].find(b => b.textContent.includes('{words}') && !b.disabled)"
    page.wait_for(f"{button} !== undefined")
    page.run(f"{button}.click()")


def choose(page: Page, tab: str) -> None:
    page.run(
        f"[...document.querySelectorAll('[role=tab]')].find(t => t.innerText == '{tab}').click()"
    )
    page.wait_for("document.body.innerText.includes('Download')")


def write(page: Page, words: str) -> None:
    """Type into the prompt box, as React expects it."""
    page.run(
        "(() => { const box = [...document.querySelectorAll('textarea')].find(t => !t.disabled);"
        "const set = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set;"
        f"set.call(box, '{words}'); box.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    )


def test_from_a_sentence_to_a_downloaded_file_in_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick(name: str, prompt: str) -> Config:
        return apply_settings(preset(name, prompt), QUICK)

    monkeypatch.setattr(workshop_module, "preset", quick)
    downloads, runs = tmp_path / "downloads", tmp_path / "runs"
    downloads.mkdir()
    with Studio(runs) as studio, chromium() as page:
        assert studio._runs.value == NOTHING_YET
        page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        page.size(390, 800, mobile=True)
        page.open(studio.address)
        page.wait_for("document.body.innerText.includes('Generate')")
        write(page, "a blue ball")
        end = time.monotonic() + PATIENCE_S
        while studio._wish.value != "a blue ball":
            assert time.monotonic() < end
            time.sleep(0.1)

        press(page, "Generate")
        while not studio._status.value.startswith("Done:"):
            assert time.monotonic() < end, studio._status.value
            time.sleep(0.1)
        assert studio.workshop.gallery() == ["a-blue-ball"]
        assert "blue" in studio._answers.value

        choose(page, "Take away")
        if pictures := os.environ.get("VLM3D_GS_TEST_PICTURES"):
            save_png(page.screenshot(), Path(pictures) / "studio-phone.png")
            page.size(1280, 800)
            time.sleep(2)
            save_png(page.screenshot(), Path(pictures) / "studio.png")
            choose(page, "Take away")
        press(page, "Download")
        while not (saved := list(downloads.glob("*.spz"))):
            assert time.monotonic() < end, studio._status.value
            time.sleep(0.1)
        # Chromium's notes on software rendering, and viser's own client on its splat geometry's bounds.
        known = ("WebGL", "computeBoundingSphere")
        assert not [error for error in page.errors if not any(word in error for word in known)]

    made = read_splat(runs / "a-blue-ball" / "scene.ply")
    assert len(read_splat(saved[0])) == len(made) == 300

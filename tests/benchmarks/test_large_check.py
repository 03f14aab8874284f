"""The check that a stranger runs on a GPU, all of it, from a hub here with tiny models in the published layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pipelines
from fake_hub import Repository, fake_hub
from vlm3d_gs.core.images import load_png
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.models.catalogue import catalogue_entry
from vlm3d_gs.runs.log import git_commit

SMALL = {
    "scene.n_init": 60,
    "scene.max_gaussians": 100,
    "camera.resolution_px": 64,
    "prior.size_px": 64,
    "train.steps": 2,
}


def served(folder: Path) -> Repository:
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "runtime" not in path.parts
    }
    return Repository(files)


def test_weights_come_from_the_hub_and_one_file_tells_all(tmp_path: Path, repo_root: Path) -> None:
    """The critic is the embedded one, served under the name of the 7B model: the same architecture."""
    hub_files = {
        catalogue_entry("sd").ids[0]: served(pipelines.tiny_sd21(tmp_path / "sd")),
        catalogue_entry("qwen2.5-vl-7b").ids[0]: served(embedded_weights("critic")),
    }
    small = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    script = repo_root / "benchmarks" / "large_check.py"
    command = [
        sys.executable,
        script,
        "--preset",
        "sd",
        "--prompt",
        "a red cube",
        "--out",
        "report",
    ]
    home = {"HF_HOME": str(tmp_path / "hub"), "HOME": str(tmp_path), "HF_TOKEN": "hf_secret"}
    home["HF_HUB_OFFLINE"] = "0"
    with fake_hub(hub_files) as hub:
        done = subprocess.run(
            [*command, *small],
            cwd=tmp_path,
            env={
                **os.environ,
                **home,
                "HF_ENDPOINT": hub.endpoint,
                "PYTHONPATH": str(repo_root / "src"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 runs made" in done.stdout

    text = (tmp_path / "report" / "large-check.json").read_text()
    report = json.loads(text)
    plain, judged = report["runs"]
    assert (plain["answers"], len(judged["answers"]) > 1) == ([], True)
    assert judged["runtimes"]["critic"] in ("torch", "transformers")
    assert plain["scene_sha256"] != judged["scene_sha256"]
    assert len(report["weights"]["files"]["critic/model.safetensors"]["sha256"]) == 64
    assert report["machine"]["commit"] == git_commit()
    for row in (plain, judged):
        assert load_png(tmp_path / "report" / row["picture"]).std() > 0.01
    assert str(tmp_path) not in text, "no paths"
    assert "hf_secret" not in text


def test_a_run_that_fails_is_in_the_report_and_the_others_go_on(
    tmp_path: Path, repo_root: Path
) -> None:
    """The embedded critic refuses the first prompt."""
    script = repo_root / "benchmarks" / "large_check.py"
    command = [sys.executable, script, "--preset", "mini", "--critic", "mini", "--out", "report"]
    command += ["--prompt", "a corgi", "--prompt", "a red cube", "--set", "train.steps=1"]
    command += ["--set", "scene.n_init=60", "--set", "reconstruct.candidates=1"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repo_root / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    rows = json.loads((tmp_path / "report" / "large-check.json").read_text())["runs"]
    assert [("error" in row) for row in rows] == [True, True, False, False]
    assert rows[0]["error"].startswith(
        "PromptError: The embedded mini models cannot draw 'a corgi'"
    )

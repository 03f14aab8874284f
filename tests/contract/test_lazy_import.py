from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.source_tree import SOURCE
from splat_files import random_splat
from vlm3d_gs.formats.convert import read_splat, write_splat

HEAVY = (
    *(
        "torch",
        "numpy",
        "numba",
        "diffusers",
        "transformers",
        "peft",
        "gsplat",
        "PIL",
        "av",
        "imageio",
    ),
    *("torch._dynamo", "sympy", "scipy", "onnx", "onnxscript", "viser", "sklearn", "pandas"),
    *("scipy.spatial", "scipy.optimize", "scipy.linalg", "scipy.ndimage", "huggingface_hub"),
)
SLOW = {"diffusers", "transformers", "peft", "torch._dynamo", "sympy", "scipy"}
"""What takes seconds to import, and the embedded models do not need."""

SHOW = f"import sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"


def loaded_after(code: str) -> list[str]:
    """Return which heavy libraries a fresh interpreter has loaded after running the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{SHOW}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
    )
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    "module", ["", ".core.errors", ".config", ".config.presets", ".config.schedules", ".cli"]
)
def test_importing_the_quick_parts_loads_nothing_heavy(module: str) -> None:
    assert loaded_after(f"import vlm3d_gs{module}") == []


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "from vlm3d_gs.cli import app\n"
        f"try: app({arguments!r}, prog_name='vlm3d-gs')\n"
        "except SystemExit as done: assert done.code == 0"
    )
    assert loaded_after(code) == []


@pytest.mark.parametrize("suffix", [".spz", ".compressed.ply", ".glb", ".splat"])
def test_converting_a_splat_loads_no_torch_and_no_compiler(tmp_path: Path, suffix: str) -> None:
    write_splat(random_splat(20, 3), tmp_path / "scene.ply")
    code = f"""
from vlm3d_gs.cli import app
try: app(["convert", {str(tmp_path / "scene.ply")!r}, {str(tmp_path / f"out{suffix}")!r}])
except SystemExit as done: assert done.code in (0, None), done.code
"""
    assert loaded_after(code) == ["numpy"]
    assert len(read_splat(tmp_path / f"out{suffix}")) == 20


def test_the_probe_sees_what_is_loaded() -> None:
    assert "numpy" in loaded_after("import numpy")


def test_gsplat_is_not_loaded_without_cuda() -> None:
    code = (
        "import torch; torch.cuda.is_available = lambda: False\n"
        "import vlm3d_gs.render, vlm3d_gs.core.gaussians, vlm3d_gs.app.doctor\n"
        "vlm3d_gs.app.doctor.inspect()"
    )
    assert "gsplat" not in loaded_after(code)


@pytest.mark.parametrize(
    "module", ["guidance", "judge", "watch", "augment", "qwen.yes_no", "questions.checklist"]
)
def test_the_critic_loads_no_library_of_large_models(module: str) -> None:
    assert not SLOW & set(loaded_after(f"import vlm3d_gs.critic.{module}"))


def test_the_embedded_critic_answers_without_the_libraries_of_large_models() -> None:
    code = """
import torch
from vlm3d_gs.assembly.critic import build_questions, build_vlm
from vlm3d_gs.config import CriticConfig
from vlm3d_gs.core.prompts import parse_prompt
from vlm3d_gs.critic.questions.templates import VIEW_NAMES
from vlm3d_gs.models import embedded_weights

critic = CriticConfig()
model = build_vlm(critic, embedded_weights("critic"), torch.device("cpu"))
questions = [question.text for question in build_questions(critic, parse_prompt("a red cube"), model)]
images = torch.rand(4, 64, 64, 3, requires_grad=True)
model.log_odds(images, VIEW_NAMES, questions).sum().backward()
assert images.grad.abs().sum() > 0.0
"""
    assert not SLOW & set(loaded_after(code))


def test_a_default_run_loads_only_what_it_uses(tmp_path: Path) -> None:
    # Three steps: a target and its fit, one that distils, one more fit, so that all ways of a run are taken.
    code = f"""
from vlm3d_gs.cli import app
arguments = ["generate", "a red cube on top of a blue sphere", "--out", {str(tmp_path / "run")!r}, "--steps", "3"]
try: app(arguments + ["--set", "reconstruct.until=0.3"], prog_name="vlm3d-gs")
except SystemExit as done: assert done.code in (0, None), done.code
"""
    needed = {"torch", "numpy", "numba", "PIL", "av"}
    by_numba = {"scipy"}  # for its version, if it is installed
    assert set(loaded_after(code)) <= needed | by_numba
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert ["prior/loss" in row for row in rows] == [False, True, False]

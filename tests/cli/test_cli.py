from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import vlm3d_gs
from splat_files import random_splat
from vlm3d_gs.cli import app
from vlm3d_gs.config import Config
from vlm3d_gs.core.errors import PromptError
from vlm3d_gs.pipeline import GenerateResult

RUNNER = CliRunner()


class FakePipeline(ModuleType):
    """Stands for vlm3d_gs.pipeline and remembers how it was called."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("vlm3d_gs.pipeline")
        self.config: Config | None = None
        self.flags: dict[str, Any] = {}
        self.error = error

    def generate(self, config: Config, **flags: Any) -> GenerateResult:
        self.config, self.flags = config, flags
        if self.error is not None:
            raise self.error
        return GenerateResult(random_splat(5, 0), config.out, (), 1, 0.1)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    from vlm3d_gs.app import selection

    fake = FakePipeline()
    monkeypatch.setattr(selection, "generate", fake.generate)
    return fake


def test_version() -> None:
    assert RUNNER.invoke(app, ["--version"]).stdout.strip() == vlm3d_gs.__version__


def test_every_option_reaches_the_config(pipeline: FakePipeline) -> None:
    arguments = ["generate", "a red cube", "--out", "somewhere", "--steps", "7", "--seed", "3"]
    arguments += ["--critic-every", "9", "--backend", "reference"]
    arguments += ["--device", "cpu", "--export", "ply,gif", "--set", "optim.sh_lr=0.5"]
    arguments += ["--set", "prior.t_max=0.9", "--set", "prior.t_min=0.1", "--overwrite"]
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    config = pipeline.config
    assert config is not None
    assert config.prompt == "a red cube"
    assert config.out == Path("somewhere")
    assert (config.train.steps, config.train.seed) == (7, 3)
    assert (config.critic.enabled, config.critic.every) == (True, 9)
    assert (config.render.backend, config.device) == ("reference", "cpu")
    assert config.export.formats == ("ply", "gif")
    assert (config.optim.sh_lr(0.3), config.prior.t_max(0.3), config.prior.t_min(0.3)) == (
        0.5,
        0.9,
        0.1,
    )
    assert pipeline.flags == {"overwrite": True, "resume": False, "quiet": False, "observe": None}

    assert RUNNER.invoke(app, ["generate", "a red cube", "--no-critic"]).exit_code == 0
    assert pipeline.config is not None
    assert not pipeline.config.critic.enabled


def test_without_options_the_preset_rules(pipeline: FakePipeline) -> None:
    from vlm3d_gs.config.presets import preset

    result = RUNNER.invoke(app, ["generate", "A red cube!"])
    assert result.exit_code == 0, result.output
    assert pipeline.config == preset("mini", "A red cube!")
    assert pipeline.config.out == Path("runs/a-red-cube")
    assert "runs/a-red-cube" in result.stdout


def test_a_finished_run_has_nothing_to_resume(
    pipeline: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlm3d_gs.config.presets import preset
    from vlm3d_gs.runs.log import write_config, write_json

    monkeypatch.chdir(tmp_path)
    config = preset("mini", "a red cube")
    config.out.mkdir(parents=True)
    write_config(config.out, config)
    files = ["scene.ply", "turntable.mp4", "sheet.png"]
    summary = {"steps": config.train.steps, "finished": True, "files": files}
    write_json(config.out / "summary.json", summary)
    for name in files:
        (config.out / name).touch()

    resume = ["generate", "a red cube", "--resume"]
    result = RUNNER.invoke(app, resume)
    assert result.exit_code == 0, result.output
    assert (
        result.stdout == "Nothing to do: the run in runs/a-red-cube is done. More --steps go on.\n"
    )
    assert pipeline.config is None
    assert RUNNER.invoke(app, [*resume, "-q"]).output == ""

    other = RUNNER.invoke(app, [*resume, "--seed", "5"])
    assert other.exit_code == 2
    assert "train.seed was 0, not 5" in other.stderr

    RUNNER.invoke(app, [*resume, "--steps", "500"])
    assert pipeline.config is not None
    (config.out / "sheet.png").unlink()
    pipeline.config = None
    RUNNER.invoke(app, resume)
    assert pipeline.config is not None, "a file is missing"


@pytest.mark.parametrize("command", [[], ["generate"], ["models"], ["evaluate", "composition"]])
def test_h_is_help_everywhere(command: list[str]) -> None:
    short, long = (RUNNER.invoke(app, [*command, flag]) for flag in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output


def test_quiet_says_nothing(pipeline: FakePipeline) -> None:
    result = RUNNER.invoke(app, ["generate", "a red cube", "--quiet"])
    assert result.output == ""
    assert pipeline.flags["quiet"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "a red cube", "--steps", "0"], "train.steps must be in [1, 10000000], got 0"),
        (["generate", "a red cube", "--export", "obj"], "one of ply, compressed.ply, splat"),
        (["generate", "a red cube", "--preset", "hq"], "--preset': 'hq' is not one of 'mini'"),
        (["generate", "a red cube", "--backend", "gl"], "'auto', 'cpu', 'gsplat', 'reference'"),
        (["generate", "a red cube", "--recipe", "x"], "'x' is not one of 'sds', 'vlm3d-paper'"),
        (["generate", "a red cube", "--set", "steps"], "--set needs a.b=c, got 'steps'"),
        (["generate", "a red cube", "--set", "x.y=1"], "Unknown setting 'x'"),
        (["generate", "a red cube", "--set", "critic.x=1"], "See: vlm3d-gs settings critic"),
        (["generate", " "], "The prompt is empty"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    pipeline: FakePipeline, arguments: list[str], says: str
) -> None:
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert pipeline.config is None


def test_our_errors_are_told_and_bugs_are_not_hidden(pipeline: FakePipeline) -> None:
    pipeline.error = PromptError("unknown word 'corgi'")
    result = RUNNER.invoke(app, ["generate", "a corgi"])
    assert result.exit_code == 2
    assert result.stderr == "error: unknown word 'corgi'\n"

    pipeline.error = ZeroDivisionError("a bug")
    result = RUNNER.invoke(app, ["generate", "a corgi"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_doctor_reports_and_its_exit_code_says_whether_a_run_can_start() -> None:
    from vlm3d_gs.app.doctor import healthy, inspect

    result = RUNNER.invoke(app, ["doctor"])
    assert "torch" in result.stdout
    assert result.exit_code == (0 if healthy(inspect()) else 1)


def test_judging_a_folder_without_a_splat_is_told(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["evaluate", "composition", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no finished run" in result.stderr


def test_judging_a_splat_without_a_prompt_is_told(tmp_path: Path) -> None:
    (tmp_path / "scene.ply").write_text("ply")
    result = RUNNER.invoke(app, ["evaluate", "composition", str(tmp_path / "scene.ply")])
    assert result.exit_code == 2
    assert "--prompt" in result.stderr


@pytest.fixture
def perfect(tmp_path: Path, generator: torch.Generator) -> Path:
    """A splat file that shows a red cube on top of a blue sphere."""
    from vlm3d_gs.core.prompts import parse_composition
    from vlm3d_gs.formats.convert import write_splat
    from vlm3d_gs.mini.world.scenes import build_scene
    from vlm3d_gs.mini.world.splats import scene_to_gaussians

    scene = build_scene(parse_composition("a red cube on top of a blue sphere"))
    write_splat(scene_to_gaussians(scene, 3000, generator), tmp_path / "scene.ply")
    return tmp_path / "scene.ply"


def test_a_perfect_scene_is_judged_right_and_another_prompt_wrong(perfect: Path) -> None:
    command = ["evaluate", "composition", str(perfect), "--prompt"]
    reports = perfect.parent / "reports.json"
    prompt = "a red cube on top of a blue sphere"
    right = RUNNER.invoke(app, [*command, prompt, "--json", str(reports), "--table"])
    assert right.exit_code == 0, right.output
    assert right.stdout.startswith(
        "right, clean      scene.ply: a red cube on top of a blue sphere\n"
    )
    assert "| group |" in right.stdout
    assert json.loads(reports.read_text())[0]["report"]["ok"] is True
    wrong = RUNNER.invoke(app, [*command, "a blue cube on top of a red sphere"])
    assert wrong.exit_code == 1
    assert "WRONG" in wrong.stdout


def test_a_scene_with_dirt_is_right_but_not_clean_which_only_the_strict_mind(perfect: Path) -> None:
    from vlm3d_gs.core.gaussians import concatenate
    from vlm3d_gs.formats.convert import read_splat, write_splat

    scene = read_splat(perfect)
    high = scene.means[:, 2] > scene.means[:, 2].quantile(0.9)
    bit = scene.select(high)
    away = bit.changed({"means": bit.means * 0.3 + torch.tensor([0.0, 0.75, 0.75])})
    write_splat(concatenate([scene, away]), perfect)

    command = ["evaluate", "composition", str(perfect), "--prompt"]
    command.append("a red cube on top of a blue sphere")
    lenient, strict = RUNNER.invoke(app, command), RUNNER.invoke(app, [*command, "--strict"])
    assert lenient.stdout.startswith("right, not clean  scene.ply"), lenient.stdout
    assert "floating apart" in lenient.stdout
    assert (lenient.exit_code, strict.exit_code) == (0, 1)
    assert strict.stdout == lenient.stdout


def test_render_writes_a_turntable(perfect: Path) -> None:
    turn = perfect.parent / "turn.gif"
    arguments = [str(perfect), "--out", str(turn), "--seconds", "0.2", "--size-px", "32"]
    result = RUNNER.invoke(app, ["render", *arguments])
    assert result.exit_code == 0, result.output
    assert turn.read_bytes().startswith(b"GIF8")


def test_render_says_what_it_can_write(perfect: Path) -> None:
    result = RUNNER.invoke(app, ["render", str(perfect), "--out", "turn.avi"])
    assert result.exit_code == 2
    assert ".mp4, .gif, .webp, .png" in result.stderr


def test_render_refuses_what_is_no_splat(tmp_path: Path) -> None:
    (tmp_path / "notes.ply").write_text("hello")
    result = RUNNER.invoke(app, ["render", str(tmp_path / "notes.ply"), "--out", "turn.gif"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


WHEN_TORCH_IS_LOADED = """
import os, sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            sys.exit()
sys.meta_path.insert(0, Spy())
from vlm3d_gs.cli import app
app(["generate", "a red cube"])
"""


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")],
)
def test_openmp_is_told_to_wait_briefly_before_torch_is_loaded(
    given: dict[str, str], spins: str
) -> None:
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", WHEN_TORCH_IS_LOADED],
        env={**kept, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [spins], done.stderr

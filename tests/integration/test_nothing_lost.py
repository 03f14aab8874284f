"""Faults during runs with the embedded models: what is promised in docs/RELIABILITY.md, each once and quickly.

`benchmarks/soak.py` does the same to whole processes, at random and for hours.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vlm3d_gs.app.selection import generate_best
from vlm3d_gs.assembly.products import Written, write_products
from vlm3d_gs.cli import app
from vlm3d_gs.config import Config, apply_settings, replace_path
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import CheckpointError, ExportError, NotFiniteError, RunLostError
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.pipeline import GenerateResult, generate
from vlm3d_gs.runs.checkpoint import load_checkpoint
from vlm3d_gs.runs.folder import CHECKPOINT, PREVIOUS
from vlm3d_gs.runs.interrupt import Interrupted, ended_by_signals, stop_requests

PROMPT = "a red cube"


def config(out: Path, steps: int = 4, **values: object) -> Config:
    quick = {
        "out": out,
        "train.steps": steps,
        "train.preview_every": 0.0,
        "train.checkpoint_every": 0.5,
        "scene.n_init": 100,
        "critic.enabled": False,
        "export.formats": "ply",
    }
    return apply_settings(preset("mini", PROMPT), {**quick, **values})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    generate(config(out), quiet=True)
    return out


def after_step(number: int, act: Callable[[TrainState], None]) -> Callable[..., bool]:
    """An observer that acts once, after a step, and lets the run go on."""
    acted: list[int] = []

    def observe(
        state: TrainState, scalars: Mapping[str, float], stop_requested: Callable[[], bool]
    ) -> bool:
        if state.step == number and not acted:
            acted.append(number)
            act(state)
        return False

    return observe


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def same_scene(out: Path, other: Path) -> bool:
    return (out / "scene.ply").read_bytes() == (other / "scene.ply").read_bytes()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_signals_save_export_and_are_told_by_the_exit_code(
    number: int, code: int, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"signal {number} is ignored by whoever started the tests, as by nohup")

    out = tmp_path / "run"
    monkeypatch.setattr(
        "vlm3d_gs.app.selection.generate",
        lambda chosen, **flags: generate(
            config(out),
            **{**flags, "observe": after_step(1, lambda state: signal.raise_signal(number))},
        ),
    )
    result = CliRunner().invoke(app, ["generate", PROMPT, "--out", str(out)])
    assert result.exit_code == code
    assert "interrupted after step 1; written to" in result.output
    assert "scene.ply" in result.output
    assert load_checkpoint(out / CHECKPOINT).step == 1
    monkeypatch.undo()

    resumed = CliRunner().invoke(app, ["generate", PROMPT, "--out", str(out), "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert same_scene(out, whole), "--resume alone takes the old settings"


def test_a_second_signal_ends_at_once() -> None:
    with ended_by_signals(), stop_requests() as stop_requested:
        assert not stop_requested()
        signal.raise_signal(signal.SIGTERM)
        assert stop_requested()
        with pytest.raises(Interrupted, match="SIGINT"):
            signal.raise_signal(signal.SIGINT)


def test_a_program_without_a_plan_for_the_signal_is_ended_by_it_afterwards() -> None:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with stop_requests():
            signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_run_outlives_files_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    limit = files_of_at_most(5_000)

    def fill(state: TrainState) -> None:
        limit.__enter__()

    try:
        with pytest.raises(ExportError, match=r"file too large.*ulimit -f"):
            generate(config(out, 5), observe=after_step(4, fill))
    finally:
        limit.__exit__(None, None, None)
    assert "no checkpoint at step 5: Cannot write" in capsys.readouterr().err
    assert not (out / "scene.ply").exists()
    # The step that was saved before goes on, to the end that was lost.
    assert load_checkpoint(out / CHECKPOINT).step == 3
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 5
    generate(config(out, 5), resume=True, quiet=True)
    assert len(read_splat(out / "scene.ply")) > 0


def test_a_run_of_which_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    limit = files_of_at_most(6_500)  # enough for config.json alone
    try:
        with pytest.raises(RunLostError, match="The run is lost"):
            generate(
                config(tmp_path / "run", 2, **{"train.checkpoint_every": 0.0}),
                observe=after_step(1, lambda state: limit.__enter__()),
                quiet=True,
            )
    finally:
        limit.__exit__(None, None, None)


def test_a_folder_that_is_deleted_comes_back(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    generate(config(out), observe=after_step(2, lambda state: shutil.rmtree(out)), quiet=True)
    assert same_scene(out, whole)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 4
    assert json.loads((out / "summary.json").read_text())["finished"]


def test_a_folder_that_is_deleted_before_the_products_comes_back_with_its_settings(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def delete_first(*given: object) -> Written:
        shutil.rmtree(out)
        return write_products(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("vlm3d_gs.pipeline.write_products", delete_first)
    generate(config(out), quiet=True)
    assert same_scene(out, whole)
    names = {"config.json", "metrics.jsonl", "summary.json", "scene.ply"}
    assert names <= {path.name for path in out.iterdir()}


def break_scene(state: TrainState) -> None:
    with torch.no_grad():
        state.optimizer.leaves["means"][3] = torch.nan


def test_a_scene_that_becomes_nan_is_taken_back_and_goes_on_more_slowly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    result = generate(config(out), observe=after_step(3, break_scene))
    assert "became NaN or infinite after step 3; back to step 2 with 0.3 times" in (
        capsys.readouterr().err.replace("\n", " ")
    )
    assert result.steps == 4
    assert torch.isfinite(read_splat(out / "scene.ply").means).all()
    assert load_checkpoint(out / CHECKPOINT).meta["rate_factor"] == pytest.approx(0.3)
    rows = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3, 4]


def test_a_scene_that_always_becomes_nan_ends_at_its_last_good_state(tmp_path: Path) -> None:
    out, broken = tmp_path / "run", []

    def observe(state: TrainState, *_: object) -> bool:
        if state.step == 3:
            broken.append(state.step)
            break_scene(state)
        return False

    with pytest.raises(NotFiniteError, match=r"last good state, of step 2.*--resume"):
        generate(config(out), observe=observe, quiet=True)
    assert len(broken) == 4, "the first time, and three times more"
    assert len(read_splat(out / "scene.ply")) > 0
    assert load_checkpoint(out / CHECKPOINT).step == 2
    assert generate(config(out), resume=True, quiet=True).steps == 4


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    generate(config(out), quiet=True, until=3)
    assert load_checkpoint(out / PREVIOUS).step == 2
    damaged = bytearray((out / CHECKPOINT).read_bytes())
    damaged[-100] ^= 4
    (out / CHECKPOINT).write_bytes(damaged)
    generate(config(out), resume=True)
    assert "is damaged; the run goes on from the one before it, of step 2" in (
        capsys.readouterr().err.replace("\n", " ")
    )
    assert same_scene(out, whole)


def test_other_settings_are_refused_by_name_and_those_that_change_nothing_are_not(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    generate(config(out), quiet=True, until=2)
    before = (out / "config.json").read_text()
    for name, value in {"optim.sh_lr": 0.5, "scene.sh_degree": 1, "camera.n_views": 2}.items():
        with pytest.raises(CheckpointError, match=name):
            generate(replace_path(config(out), name, value), resume=True, quiet=True)
    with pytest.raises(CheckpointError, match="prompt was 'a red cube', not 'a blue cube'"):
        generate(replace_path(config(out), "prompt", "a blue cube"), resume=True, quiet=True)
    assert (out / "config.json").read_text() == before
    allowed = {"export.formats": "splat", "train.checkpoint_every_s": 5.0, "train.steps": 3}
    generate(apply_settings(config(out), allowed), resume=True, quiet=True)
    assert (out / "scene.splat").is_file()
    # What is missing of a finished run can be asked for later.
    generate(
        apply_settings(config(out), {**allowed, "export.formats": "ply"}), resume=True, quiet=True
    )
    assert (out / "scene.ply").is_file()


def test_an_interrupted_choice_among_seeds_exports_the_best_so_far_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path / "cut", **{"critic.enabled": True, "critic.every": 4})
    begun: list[int] = []

    def interrupted(candidate: Config, **options: object) -> GenerateResult:
        begun.append(candidate.train.seed)
        cut = after_step(1, lambda state: signal.raise_signal(signal.SIGTERM))
        options["observe"] = cut if len(begun) == 2 else None
        return generate(candidate, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, ended_by_signals():
        patched.setattr("vlm3d_gs.app.selection.generate", interrupted)
        stopped = generate_best(settings, 2, pick_at=0.5, quiet=True)
    assert stopped.signal == signal.SIGTERM
    first = read_splat(tmp_path / "cut" / "candidates" / "seed-0" / "scene.ply")
    torch.testing.assert_close(read_splat(tmp_path / "cut" / "scene.ply").means, first.means)

    command = ["generate", PROMPT, "--out", str(tmp_path / "cut"), "--resume", "--quiet"]
    resumed = CliRunner().invoke(app, command)
    assert resumed.exit_code == 0, resumed.output
    generate_best(replace_path(settings, "out", tmp_path / "whole"), 2, pick_at=0.5, quiet=True)
    assert same_scene(tmp_path / "cut", tmp_path / "whole")

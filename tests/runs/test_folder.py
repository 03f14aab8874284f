"""Who may write into a run's folder, and how one run takes the place of another without anything being lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vlm3d_gs.core.errors import ConfigError, WriteError
from vlm3d_gs.runs import folder as room
from vlm3d_gs.runs.folder import LOCK, NEW, RunFolder, run_folder


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()} - {LOCK}


def old_run(out: Path) -> Path:
    (out / "previews").mkdir(parents=True)
    for name in ("config.json", "scene.ply", "previews/step_1.png", "notes.txt", "previews/a.txt"):
        (out / name).write_text("old")
    return out


def write_new(folder: RunFolder) -> None:
    (folder.path / "previews").mkdir()
    for name in ("config.json", "checkpoint.safetensors", "previews/step_2.png"):
        (folder.path / name).write_text("new")


def test_a_new_folder_is_made_with_its_parents_and_goes_if_nothing_was_written(
    tmp_path: Path,
) -> None:
    out = tmp_path / "a" / "b"
    with run_folder(out) as folder:
        assert folder.path == out
        assert out.is_dir()
    assert not (tmp_path / "a").exists()
    with run_folder(out) as folder:
        write_new(folder)
    assert "config.json" in names(out)


def test_an_occupied_folder_is_refused_untouched(tmp_path: Path) -> None:
    old_run(tmp_path / "run")
    with (
        pytest.raises(ConfigError, match="--overwrite .* or --resume"),
        run_folder(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run" / "config.json").read_text() == "old"


def test_an_overwriting_run_takes_the_place_when_it_can_be_resumed(tmp_path: Path) -> None:
    out = old_run(tmp_path / "run")
    with run_folder(out, overwrite=True) as folder:
        write_new(folder)
        assert (out / "scene.ply").read_text() == "old"
        folder.stand()
        folder.stand()
        assert folder.path == out
    assert names(out) == {"config.json", "checkpoint.safetensors", "previews", "notes.txt"}
    assert names(out / "previews") == {"step_2.png", "a.txt"}
    assert (out / "config.json").read_text() == "new"


def test_an_overwriting_run_that_fails_before_leaves_the_old_one(tmp_path: Path) -> None:
    out = old_run(tmp_path / "run")
    before = names(out)

    def fail() -> None:
        with run_folder(out, overwrite=True) as folder:
            write_new(folder)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(out) == before
    assert (out / "scene.ply").read_text() == "old"


@pytest.mark.parametrize("moves", range(9))
def test_a_change_of_runs_that_was_killed_anywhere_is_brought_to_its_end(
    tmp_path: Path, moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, left = old_run(tmp_path / "run"), [moves]

    def replace(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        os.rename(source, target)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(room.os, "replace", replace)
        with run_folder(out, overwrite=True) as folder:
            write_new(folder)
            folder.stand()
        os._exit(0)
    os.waitpid(child, 0)

    with run_folder(out, resume=True) as folder:
        assert folder.path == out
    assert names(out) == {"config.json", "checkpoint.safetensors", "previews", "notes.txt"}
    assert names(out / "previews") == {"step_2.png", "a.txt"}
    assert (out / "config.json").read_text() == "new"


def test_what_a_killed_run_left_unfinished_goes_and_hinders_nobody(tmp_path: Path) -> None:
    out = old_run(tmp_path / "run")
    (out / NEW).mkdir()
    for name in (f"{NEW}/config.json", ".vlm3d-gs-12.png", "previews/.vlm3d-gs-34.png"):
        (out / name).write_text("half")
    with run_folder(out, resume=True):
        assert names(out) == {"config.json", "scene.ply", "previews", "notes.txt"}
        assert names(out / "previews") == {"step_1.png", "a.txt"}
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / ".vlm3d-gs-12.json").write_text("half")
    with run_folder(tmp_path / "fresh"):
        assert names(tmp_path / "fresh") == set()


def test_links_are_replaced_and_never_followed(tmp_path: Path) -> None:
    out, outside = old_run(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    for name in ("step_1.png", "scene.ply"):
        (outside / name).write_text("mine")
    shutil.rmtree(out / "previews")
    (out / "previews").symlink_to(outside)
    (out / "scene.ply").unlink()
    (out / "scene.ply").symlink_to(outside / "scene.ply")
    (out / "candidates").symlink_to(outside)
    with run_folder(out, overwrite=True) as folder:
        write_new(folder)
        folder.stand()
    assert (outside / "step_1.png").read_text() == "mine"
    assert (outside / "scene.ply").read_text() == "mine"
    assert not (out / "previews").is_symlink()
    assert names(out) == {"config.json", "checkpoint.safetensors", "previews", "notes.txt"}


def test_a_run_that_goes_on_writes_through_no_link(tmp_path: Path) -> None:
    out, outside = old_run(tmp_path / "run"), tmp_path / "outside"
    shutil.move(out / "previews", outside)
    (out / "previews").symlink_to(outside)
    (outside / "metrics.jsonl").write_text("rows")
    (out / "metrics.jsonl").symlink_to(outside / "metrics.jsonl")
    (out / "summary.json").symlink_to(tmp_path / "gone")

    with run_folder(out, resume=True):
        with (out / "metrics.jsonl").open("a") as stream:
            stream.write(" and more")
        (out / "previews" / "step_2.png").write_text("new")
        assert not (out / "summary.json").is_symlink()
    assert (outside / "metrics.jsonl").read_text() == "rows"
    assert (out / "metrics.jsonl").read_text() == "rows and more"
    assert not (outside / "step_2.png").exists()
    assert (out / "previews" / "step_1.png").read_text() == (outside / "step_1.png").read_text()


@pytest.mark.parametrize("flags", [{"overwrite": True}, {"resume": True}])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, flags: dict[str, bool]) -> None:
    (tmp_path / "scene.ply").write_text("mine")
    with pytest.raises(ConfigError, match="not the folder of a run"), run_folder(tmp_path, **flags):
        pass
    assert (tmp_path / "scene.ply").read_text() == "mine"


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(ConfigError, match="not a folder"), run_folder(tmp_path / "run"):
        pass
    with (
        pytest.raises(WriteError, match="part of the path is a file"),
        run_folder(tmp_path / "run" / "sub"),
    ):
        pass
    with pytest.raises(WriteError, match="shorter name"), run_folder(tmp_path / ("x" * 300)):
        pass
    out = old_run(tmp_path / "old")
    (out / "summary.json").mkdir()
    with (
        pytest.raises(ConfigError, match="summary.json is a folder"),
        run_folder(out, overwrite=True),
    ):
        pass


def test_overwrite_and_resume_exclude_each_other(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="contradict"),
        run_folder(tmp_path, overwrite=True, resume=True),
    ):
        pass


def test_two_runs_do_not_share_a_folder_and_a_dead_one_keeps_nobody_out(tmp_path: Path) -> None:
    out = old_run(tmp_path / "run")
    hold = (
        "import sys; from pathlib import Path; from vlm3d_gs.runs.folder import run_folder\n"
        "with run_folder(Path(sys.argv[1]), resume=True):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(ConfigError, match="Another run is writing into"),
            run_folder(out, overwrite=True),
        ):
            pass
        assert (out / "scene.ply").read_text() == "old"
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    with run_folder(out, resume=True), run_folder(out, resume=True):
        pass

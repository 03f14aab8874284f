"""Batches whose folder is behind a URL: nothing is lost, nothing made twice, and a run goes on on another machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from vlm3d_gs.batch import start
from vlm3d_gs.batch.driver import Event, Job, Tell
from vlm3d_gs.batch.engine import Beat, DryEngine
from vlm3d_gs.batch.items import Item, Shared
from vlm3d_gs.batch.outcome import Outcome
from vlm3d_gs.batch.prompts import PromptList, collect
from vlm3d_gs.batch.run import BatchResult
from vlm3d_gs.batch.staging import Room
from vlm3d_gs.batch.start import Where, run_list
from vlm3d_gs.batch.store import Store
from vlm3d_gs.batch.worker import make_where
from vlm3d_gs.core.errors import ConfigError, MissingDependencyError, WriteError

Run = Callable[..., BatchResult]
URL = "memory://bucket/night"


class KilledError(BaseException):
    """The machine is gone."""


class SavingEngine(DryEngine):
    """Saves a checkpoint each step, as runs do; its machine dies in the middle of prompts that say so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[str, int]] = []

    def make(self, item: Item, shared: Shared, folder: Path, beat: Beat) -> Outcome:
        checkpoint = folder / "checkpoint.safetensors"
        done = int(checkpoint.read_text()) if checkpoint.is_file() else 0
        self.begun.append((item.id, done))
        folder.mkdir(exist_ok=True)
        for step in range(done + 1, 5):
            checkpoint.write_text(str(step))
            (folder / "metrics.jsonl").write_text("{}\n" * step)
            stopped = beat(step, 4)
            if item.prompt.startswith("dies") and not done and step == 3:
                raise KilledError
            if stopped:
                return replace(super().make(item, shared, folder, beat), status="stopped")
        checkpoint.unlink()
        return super().make(item, shared, folder, lambda step, steps: False)


class HereDriver:
    """Makes items in this process, since memory:// is in no other."""

    def __init__(self, engine: DryEngine, stop_at: str = "") -> None:
        self.engine, self.stop_at = engine, stop_at

    def run(
        self, items: Sequence[Item], job: Job, tell: Tell, stop_requested: Callable[[], bool]
    ) -> None:
        settings = {"shared": job.shared.plain(), "out": str(job.out), "store": job.store}
        for item in items:
            tell(Event("begin", item))
            stop = item.id == self.stop_at
            outcome = make_where(settings, self.engine, item, lambda step, steps, s=stop: s)
            tell(Event("end", item, outcome=outcome))


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    yield
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(driver: HereDriver, prompts: PromptList, out: str = URL) -> BatchResult:
        monkeypatch.setattr(start, "_driver", lambda where, engine: driver)
        return run_list(prompts, Shared(), Where(out), quiet=True)

    return call


def listed(*texts: str) -> PromptList:
    rows = ({"prompt": text, "id": text.replace(" ", "-")} for text in texts)
    return collect(enumerate(rows, 1), Shared(), "list")


def rows_of(store: Store) -> dict[str, str]:
    journal = store.read("manifest.jsonl")
    assert journal is not None
    rows = [json.loads(line) for line in journal.decode().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["status"] for row in rows}


def test_assets_in_a_store_are_those_of_a_folder(run: Run, tmp_path: Path) -> None:
    prompts = listed("one", "two")
    result = run(HereDriver(SavingEngine()), prompts)
    assert (result.done, result.failed, result.left) == (2, 0, 0)
    assert f"see {URL}/index.html" in result.message
    run(HereDriver(SavingEngine()), prompts, str(tmp_path / "out"))

    store = Store(URL)
    for item in prompts.items:
        here = tmp_path / "out" / item.folder
        names = {path.name for path in here.iterdir()}
        assert names == {name.rpartition("/")[2] for name in store.names(str(item.folder))}
        assert not any(name.startswith("checkpoint") for name in names)
        for name in names - {"asset.json"}:
            assert store.read(f"{item.folder}/{name}") == (here / name).read_bytes()
    assert rows_of(store) == {"one": "done", "two": "done"}


def test_the_same_command_makes_only_what_is_not_there(run: Run) -> None:
    run(HereDriver(SavingEngine()), listed("one", "two"))
    engine = SavingEngine()
    assert run(HereDriver(engine), listed("one", "two", "three")).done == 3
    assert engine.begun == [("three", 0)]

    item = listed("two").items[0]
    Store(URL).remove(f"{item.folder}/dry.txt")
    engine = SavingEngine()
    run(HereDriver(engine), listed("one", "two", "three"))
    assert engine.begun == [("two", 0)]


def test_a_run_whose_machine_died_goes_on_elsewhere(run: Run) -> None:
    prompts = listed("one", "dies", "two")
    with pytest.raises(KilledError):
        run(HereDriver(SavingEngine()), prompts)

    # Without its manifest, too, as after a driver that was killed.
    store = Store(URL)
    if store.read("manifest.jsonl") is not None:
        store.remove("manifest.jsonl")
    engine = SavingEngine()
    assert run(HereDriver(engine), prompts).done == 3
    assert engine.begun == [("dies", 3), ("two", 0)]
    folder = prompts.items[1].folder
    assert store.read(f"{folder}/metrics.jsonl") == b"{}\n" * 4
    assert f"{folder}/checkpoint.safetensors" not in store.names(str(folder))


def test_a_stopped_run_goes_on(run: Run) -> None:
    assert run(HereDriver(SavingEngine(), stop_at="one"), listed("one")).left == 1
    engine = SavingEngine()
    assert run(HereDriver(engine), listed("one")).done == 1
    assert engine.begun == [("one", 1)]


def test_a_store_that_refuses_is_one_line_and_three_of_them_end_nothing_half(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, path: str, value: bytes, **options: object) -> None:
        raise RuntimeError("no\ncredentials")

    monkeypatch.setattr(fsspec.filesystem("memory").__class__, "pipe_file", refuse)
    with pytest.raises(
        WriteError, match=r"Cannot reach memory://bucket/night/.*: no credentials\."
    ):
        run(HereDriver(SavingEngine()), listed("one"))
    assert not Store(URL).names()


def test_rooms_of_killed_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from vlm3d_gs.batch.staging import Room; Room(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=120)
    (left,) = tmp_path.iterdir()

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = Room(), Room()
    assert not left.exists()
    assert first.path.is_dir(), "its process lives"
    first.close()
    second.close()
    assert not list(tmp_path.iterdir())


def test_places_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"s3://BUCKET/FOLDER.*nowhere"):
        Store("nowhere://x")
    with pytest.raises(ConfigError, match="file:///FOLDER"):
        run_list(listed("one"), Shared(), Where("file://host/x"), engine="dry", quiet=True)


def test_the_extra_of_a_protocol_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(url: str, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(MissingDependencyError, match=r"vlm3d-gs\[s3\]"):
        Store("s3://bucket/x")


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    out = (tmp_path / "a night").as_uri()
    result = run_list(listed("one"), Shared(), Where(out, workers=1), engine="dry", quiet=True)
    assert result.done == 1
    assert (tmp_path / "a night" / "manifest.jsonl").is_file()

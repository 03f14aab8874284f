"""Batches with engines that load no model: crashes, hangs, signals, what is kept, manifest and page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

import faulty_engine
from contract.source_tree import SOURCE
from vlm3d_gs.batch.driver import Job
from vlm3d_gs.batch.items import Shared
from vlm3d_gs.batch.local import LocalDriver, Place
from vlm3d_gs.batch.manifest import JOURNAL, PARQUET, read_journal
from vlm3d_gs.batch.outcome import SIDECAR, Outcome
from vlm3d_gs.batch.parquet import can_parquet
from vlm3d_gs.batch.prompts import PromptList, collect
from vlm3d_gs.batch.run import BatchResult, run_batch
from vlm3d_gs.cli import app
from vlm3d_gs.core.errors import ConfigError, SetupError, WriteError

SHARED = Shared()
PLACE = Place("cpu")


@pytest.fixture(autouse=True)
def _workers_find_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(SOURCE.parent), str(Path(__file__).parents[1])])
    )


def prompts(*texts: str) -> PromptList:
    return collect(
        enumerate(({"prompt": text, "id": text.replace(" ", "-")} for text in texts), 1),
        SHARED,
        "list",
    )


def batch(out: Path, *texts: str, workers: int = 2, **settings: object) -> BatchResult:
    retry = bool(settings.pop("retry_failed", False))
    job = Job(SHARED, out, faulty_engine.NAME, **settings)  # type: ignore[arg-type]
    driver = LocalDriver([PLACE] * workers)
    return run_batch(prompts(*texts), job, driver, retry_failed=retry, quiet=True)


def rows(out: Path) -> dict[str, Outcome]:
    found = list(read_journal(out / JOURNAL))
    assert len({row.id for row in found}) == len(found), "one row an id"
    return {row.id: row for row in found}


def begun(out: Path) -> Counter[str]:
    return Counter((out / faulty_engine.BEGUN).read_text().split())


def test_each_prompt_arrives_once_and_a_second_call_makes_nothing(tmp_path: Path) -> None:
    texts = [f"a red cube number {n}" for n in range(20)]
    first = batch(tmp_path, *texts)
    assert (first.done, first.failed, first.left) == (20, 0, 0)
    assert set(begun(tmp_path).values()) == {1}
    assert len(begun(tmp_path)) == 20
    assert list(rows(tmp_path)) == [text.replace(" ", "-") for text in texts], "in the list's order"

    again = batch(tmp_path, *texts, "one more")
    assert again.done == 21
    assert set(begun(tmp_path).values()) == {1}


def test_a_crash_a_kill_a_hang_and_a_mistake_cost_one_prompt_each(tmp_path: Path) -> None:
    good = [f"good {n}" for n in range(6)]
    bad = ["segfault always", "memory gone", "hang forever", "unknown word", "bug here"]
    mixed = [text for pair in zip(good, [*bad, "good last"], strict=True) for text in pair]
    result = batch(tmp_path, *mixed, timeout_s=4.0, tries=1)
    found = rows(tmp_path)
    assert (result.done, result.failed, result.left) == (7, 5, 0)
    assert all(found[text.replace(" ", "-")].status == "done" for text in [*good, "good last"])

    kinds = {row.id: (row.kind, row.reason) for row in found.values() if row.status == "failed"}
    assert "SIGSEGV" in kinds["segfault-always"][1]
    assert "memory runs out" in kinds["memory-gone"][1]
    assert kinds["hang-forever"][0] == "hang"
    assert kinds["unknown-word"] == ("PromptError", "No such word.")
    assert kinds["bug-here"][0] == "ZeroDivisionError"
    logs = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert "ZeroDivisionError: a mistake of ours" in logs, "the traceback is kept"


def test_a_crash_is_tried_again_and_failures_only_when_asked(tmp_path: Path) -> None:
    first = batch(tmp_path, "segfault-once then good", "unknown word", workers=1)
    assert (first.done, first.failed) == (1, 1)
    assert rows(tmp_path)["segfault-once-then-good"].tries == 2

    batch(tmp_path, "segfault-once then good", "unknown word")
    assert begun(tmp_path)["unknown-word"] == 1
    batch(tmp_path, "segfault-once then good", "unknown word", retry_failed=True)
    assert begun(tmp_path)["unknown-word"] == 2
    assert begun(tmp_path)["segfault-once-then-good"] == 2


def test_a_full_disk_ends_the_batch_instead_of_failing_every_prompt(tmp_path: Path) -> None:
    texts = [f"full {n}" for n in range(30)]
    with pytest.raises(WriteError, match="3 assets in a row"):
        batch(tmp_path, *texts, workers=1)
    assert Counter(row.status for row in rows(tmp_path).values()) == {"failed": 3}
    assert sum(begun(tmp_path).values()) <= 4


def test_workers_that_cannot_start_end_the_batch_with_their_last_words(tmp_path: Path) -> None:
    job = Job(SHARED, tmp_path, "faulty_engine:NoSuchEngine")
    with pytest.raises(SetupError, match="NoSuchEngine"):
        run_batch(prompts("a red cube"), job, LocalDriver([PLACE]), quiet=True)
    assert rows(tmp_path) == {}


def test_an_asset_without_a_row_is_found_and_a_torn_row_is_made_again(tmp_path: Path) -> None:
    batch(tmp_path, "good 1", "good 2", "good 3")
    journal = tmp_path / JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    # A driver killed as it wrote: the last row is torn, the second missing.
    journal.write_text(lines[0] + lines[2][:40])
    (tmp_path / "assets" / "go" / "good-3" / SIDECAR).write_text('{"id": "good-3"')
    result = batch(tmp_path, "good 1", "good 2", "good 3")
    assert result.done == len(rows(tmp_path)) == 3
    assert begun(tmp_path) == {"good-1": 1, "good-2": 1, "good-3": 2}


def test_what_somebody_deleted_is_made_again(tmp_path: Path) -> None:
    batch(tmp_path, "good 1", "good 2")
    (tmp_path / "assets" / "go" / "good-1" / "dry.txt").unlink()
    batch(tmp_path, "good 1", "good 2")
    assert begun(tmp_path) == {"good-1": 2, "good-2": 1}


def test_an_id_of_something_else_is_refused(tmp_path: Path) -> None:
    batch(tmp_path, "good 1")
    other = collect([(1, {"prompt": "another", "id": "good-1"})], SHARED, "list")
    with pytest.raises(ConfigError, match="another prompt or other settings"):
        run_batch(other, Job(SHARED, tmp_path, "dry"), LocalDriver([PLACE]), quiet=True)
    assert rows(tmp_path)["good-1"].status == "done"


def test_a_folder_takes_one_batch_at_a_time(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(ConfigError, match="Another batch"):
        batch(tmp_path, "good 1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_what_is_in_progress_and_the_same_call_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    texts = ["slow 1", "slow 2", "good 1", "good 2"]

    def interrupt() -> None:
        _until(lambda: (tmp_path / faulty_engine.BEGUN).exists() and len(begun(tmp_path)) == 2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    # Somebody else's plan for the signal, so that it does not end this process after the batch.
    before = signal.signal(number, lambda *_: None)
    try:
        result = batch(tmp_path, *texts)
    finally:
        signal.signal(number, before)
        thread.join()
    assert (result.done, result.left, result.signal) == (0, 4, number)
    assert Counter(row.status for row in rows(tmp_path).values()) == {"stopped": 2}

    result = batch(tmp_path, *texts)
    assert (result.done, result.left, result.signal) == (4, 0, None)
    assert begun(tmp_path) == {"slow-1": 2, "slow-2": 2, "good-1": 1, "good-2": 1}


def test_workers_of_a_killed_driver_save_their_run_and_end(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"prompt": "slow 1", "id": "slow-1"}\n')
    code = (
        "from pathlib import Path\n"
        "from vlm3d_gs.batch.driver import Job\n"
        "from vlm3d_gs.batch.items import Shared\n"
        "from vlm3d_gs.batch.local import LocalDriver, Place\n"
        "from vlm3d_gs.batch.prompts import read_prompts\n"
        "from vlm3d_gs.batch.run import run_batch\n"
        f"out = Path({str(tmp_path)!r})\n"
        "run_batch(read_prompts(str(out / 'list.jsonl'), Shared()),\n"
        f"          Job(Shared(), out, {faulty_engine.NAME!r}), LocalDriver([Place('cpu')]))\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    _until((tmp_path / faulty_engine.BEGUN).exists)
    driver.kill()
    driver.wait()
    _until((tmp_path / "once-slow-1").exists)

    assert batch(tmp_path, "slow 1").done == 1
    assert begun(tmp_path) == {"slow-1": 2}


def test_the_command_writes_manifest_page_and_events(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a red cube\n</script><b>x</b> {{script}}\n")
    out = tmp_path / "out"
    command = ["batch", str(tmp_path / "list.txt"), "--out", str(out), "--dry-run"]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events if event["event"] != "step"].count("end") == 2

    page = (out / "index.html").read_text()
    assert "<b>x" not in page
    data = json.loads(re.findall(r'type="application/json">(.*?)</script>', page, re.S)[0])
    assert [card["prompt"] for card in data] == ["a red cube", "</script><b>x</b> {{script}}"]

    if can_parquet():
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(out / PARQUET).to_pylist()
        assert [row["id"] for row in table] == list(rows(out))
        assert all(len(row["sha256"]) == 64 for row in table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "soon"], "--budget must be a time"),
        (["--budget", "30s", "--no-critic"], "compare scores of a critic"),
        (["--seeds", "1"], "--seeds must be 2 to 64"),
        (["--pick-at", "0.5"], "choose among --seeds"),
        (["--set", "train.step=3"], "Did you mean"),
        (["--set", "out=there"], "cannot be set here"),
        (["--device", "tpu"], "device must be"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "list.txt").write_text("a red cube\n")
    out = tmp_path / "out"
    command = ["batch", str(tmp_path / "list.txt"), "--out", str(out), *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not out.exists()


def test_failures_show_in_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "assets").write_text("not a folder")
    (tmp_path / "list.txt").write_text("a red cube\n")
    command = ["batch", str(tmp_path / "list.txt"), "--out", str(tmp_path / "out"), "--dry-run"]
    assert CliRunner().invoke(app, command).exit_code == 1


def _until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "nothing happened"
        time.sleep(0.02)

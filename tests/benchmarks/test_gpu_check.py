"""The logic of the GPU script: verdicts, exit code, and the honest answer without a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def gpu_check(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "gpu_check", repo_root / "benchmarks" / "gpu_check.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_check", module)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_and_exits_with_2(
    gpu_check: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(gpu_check, "card", lambda: None)
    assert gpu_check.main(["--out", str(tmp_path)]) == 2
    assert "nothing was checked" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


def test_the_exit_code_names_the_failed_checks_and_never_2(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = sys.executable
    fakes = [
        gpu_check.Check(4, "good", (python, "-c", "print('fine')"), 30),
        gpu_check.Check(8, "bad", (python, "-c", "raise SystemExit(5)"), 30),
        gpu_check.Check(16, "slow", (python, "-c", "import time; time.sleep(60)"), 1),
        gpu_check.Check(
            32, "not there yet", (python, "-c", "raise SystemExit(1)"), 30, "no/such/*"
        ),
    ]
    monkeypatch.setattr(gpu_check, "card", lambda: {"name": "a card"})
    monkeypatch.setattr(gpu_check, "checks", lambda out: fakes)
    assert gpu_check.main(["--out", str(tmp_path)]) == 8 + 16
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    verdicts = [row["verdict"] for row in report["checks"]]
    assert verdicts == ["passed", "failed", "failed", "nothing to do"]
    assert report["checks"][0]["output"] == ["fine"]
    assert "stopped after 1 s" in report["checks"][2]["output"][-1]
    assert report["device"] == {"name": "a card"}
    assert "commit" in report


def test_each_check_has_its_own_bit_and_all_fit_into_eight_minutes(
    gpu_check: ModuleType, tmp_path: Path
) -> None:
    checks = gpu_check.checks(tmp_path)
    numbers = [check.number for check in checks]
    assert all(number.bit_count() == 1 and number > 2 for number in numbers)
    assert len(set(numbers)) == len(numbers)
    assert sum(numbers) < 256
    assert sum(check.limit_s for check in checks) <= gpu_check.ALL_S == 8 * 60
    assert [check.name for check in checks[:2]] == ["gsplat", "assets"], "what is worth most, first"


def test_some_checks_by_name_each_kept_as_it_ends(
    gpu_check: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    script = f"print(open({str(tmp_path / 'gpu_check.json')!r}).read())"
    fakes = [
        gpu_check.Check(4, "first", (sys.executable, "-c", "print(1)"), 30),
        gpu_check.Check(8, "left out", (sys.executable, "-c", "raise SystemExit(1)"), 30),
        gpu_check.Check(16, "last", (sys.executable, "-c", script), 30),
    ]
    monkeypatch.setattr(gpu_check, "card", lambda: {"name": "a card"})
    monkeypatch.setattr(gpu_check, "checks", lambda out: fakes)
    assert gpu_check.main(["--out", str(tmp_path), "--only", "first;last"]) == 0
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [row["name"] for row in report["checks"]] == ["first", "last"]
    assert '"first"' in "".join(report["checks"][1]["output"]), "written before the last began"

    with pytest.raises(SystemExit):
        gpu_check.main(["--out", str(tmp_path), "--only", "second"])
    assert "There are: first; left out; last" in capsys.readouterr().err

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vlm3d_gs import models
from vlm3d_gs.app import doctor
from vlm3d_gs.app.doctor import Finding, healthy, inspect, report
from vlm3d_gs.core.errors import MissingDependencyError

OK = Finding("torch", "ok", "2.0")
ABSENT = Finding("cuda", "absent", "none")
MISSING = Finding("numba", "missing", "not installed", "pip install numba")


def named(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_only_what_is_required_makes_it_unhealthy() -> None:
    assert healthy([OK, ABSENT])
    assert not healthy([OK, ABSENT, MISSING])


def test_the_report_says_what_to_type() -> None:
    text = report([OK, ABSENT, MISSING])
    assert "MISSING numba" in text
    assert "-> pip install numba" in text
    assert text.endswith("cannot start yet.")
    assert report([OK]).endswith("can start.")


def test_everything_that_the_project_requires_is_checked(repo_root: Path) -> None:
    import tomllib

    required = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {line.partition(">=")[0] for line in required} == set(doctor.REQUIRED)


def test_this_machine_is_described() -> None:
    findings = named(inspect())
    assert findings["torch"].detail == version("torch")  # without "+cu130", which torch itself adds
    assert str(torch.get_num_threads()) in findings["cpu"].detail
    assert {"cuda", "gsplat", "numba cache", "ffmpeg", "mini prior", "mini critic"} <= set(findings)


def test_gsplat_is_not_imported_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert named(inspect())["gsplat"].state == "absent"
    assert "gsplat" not in sys.modules


def test_a_card_without_gsplat_gets_the_command_that_sets_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = SimpleNamespace(name="a card", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(doctor, "gsplat_obstacle", lambda: "is not installed")
    assert named(inspect())["gsplat"].cure == "vlm3d-gs setup gpu"


def test_an_uninstalled_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", ("surely-not-installed-anywhere",))
    finding = named(inspect())["surely-not-installed-anywhere"]
    assert finding.state == "missing"
    assert finding.cure == "pip install surely-not-installed-anywhere"


def test_an_unwritable_numba_cache_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "is_writable", lambda folder: False)
    finding = named(inspect())["numba cache"]
    assert finding.state == "absent"
    assert "NUMBA_CACHE_DIR" in finding.cure


def test_missing_weights_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "files", lambda package: tmp_path)
    finding = named(inspect())["mini prior"]
    assert finding.state == "missing"
    assert "--what prior" in finding.cure


def test_embedded_weights_are_found_where_they_lie(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(models, "files", lambda package: tmp_path)
    with pytest.raises(MissingDependencyError, match="critic is missing"):
        models.embedded_weights("critic")
    folder = tmp_path / "mini" / "weights" / "critic"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x")
    assert models.embedded_weights("critic") == folder


def test_a_real_run_is_made_before_it_is_said_that_one_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = doctor.main_job()
    assert made.state == "ok", made.detail
    assert "two steps and a splat in" in made.detail

    def broken(*_: object, **__: object) -> None:
        raise ImportError("cannot import name 'HybridCache' from 'transformers'\nmore")

    monkeypatch.setattr("vlm3d_gs.pipeline.generate", broken)
    finding = doctor.main_job()
    assert finding.state == "missing"
    assert finding.detail == "ImportError: cannot import name 'HybridCache' from 'transformers'"
    assert report([finding]).endswith("A run cannot start yet.")

    monkeypatch.setattr(doctor, "inspect", lambda: [MISSING])
    assert doctor.inspect_and_try() == [MISSING], "nothing is tried where something is missing"

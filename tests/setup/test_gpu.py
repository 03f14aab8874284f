"""The course of `setup gpu`: a wheel is built once, kept, tried, and taken back if it does not work."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from vlm3d_gs.app import gpu_setup
from vlm3d_gs.cli import app
from vlm3d_gs.core.errors import SetupError
from vlm3d_gs.setup import cards, gpu, wheels
from vlm3d_gs.setup.cards import Cards, find_cards
from vlm3d_gs.setup.installer import Installer, pip
from vlm3d_gs.setup.plan import Plan
from vlm3d_gs.setup.proof import TOLERANCE, largest_difference
from vlm3d_gs.setup.torch_build import TorchBuild
from vlm3d_gs.setup.wheels import GSPLAT

WHEEL = f"gsplat-{GSPLAT}-cp311-cp311-linux_x86_64.whl"


class Machine:
    """Stands in for what takes minutes: the build and the installation."""

    def __init__(self, environment: Path, plan: Plan) -> None:
        self.environment, self.plan = environment, plan
        self.builds = 0
        self.works = True

    def build(self, *_: Any) -> Path:
        self.builds += 1
        self.plan.store.folder.mkdir(parents=True)
        wheel = self.plan.store.folder / WHEEL
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("gsplat/csrc.so", f"code {self.builds}")
        return wheel

    def install(self, wheel: Path, _: Installer) -> None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.environment)

    def prove(self) -> str:
        if not self.works:
            raise SetupError("gsplat does not load: undefined symbol.")
        return "it works"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    build = TorchBuild("2.11.0+cu130", "13.0", tmp_path / "torch")
    return Plan(
        build, Cards((13, 0), ("9.0",)), ("9.0",), Installer(None), None, tmp_path / "cache", 1
    )


@pytest.fixture
def machine(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "environment", plan)
    (tmp_path / "environment" / "gsplat").mkdir(parents=True)
    monkeypatch.setattr(gpu, "obstacles", lambda plan: [])
    monkeypatch.setattr(gpu_setup, "obstacles", lambda plan: [])
    monkeypatch.setattr(gpu_setup, "make_plan", lambda architectures: plan)
    monkeypatch.setattr(gpu, "build_wheel", machine.build)
    monkeypatch.setattr(gpu, "install", machine.install)
    monkeypatch.setattr(gpu, "prove", machine.prove)
    library = machine.environment / "gsplat" / "csrc.so"
    found = lambda: library if library.is_file() else None  # noqa: E731
    monkeypatch.setattr(wheels, "installed_library", found)
    monkeypatch.setattr(gpu, "installed_library", found)
    return machine


def set_up(**options: Any) -> None:
    gpu_setup.run_setup(["9.0"], **{"ask": None, "dry_run": False, **options})


def test_it_is_built_once_and_kept_for_the_next_environment(
    machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up()
    assert machine.builds == 1
    assert gpu.is_ready(machine.plan)

    # Again: nothing is built, installed or loaded.
    for name in ("install", "prove"):
        monkeypatch.setattr(gpu, name, pytest.fail)
    capsys.readouterr()
    set_up()
    assert capsys.readouterr().err.strip() == gpu_setup.READY

    # Another environment: installed from the store.
    (machine.environment / "gsplat" / "csrc.so").unlink()
    monkeypatch.setattr(gpu, "install", machine.install)
    monkeypatch.setattr(gpu, "prove", machine.prove)
    set_up()
    assert machine.builds == 1
    assert gpu.is_ready(machine.plan)


def test_a_wheel_tried_without_a_card_is_tried_again_on_one(machine: Machine) -> None:
    set_up()
    machine.plan.store.note(machine.plan.store.folder / WHEEL, "9.0")
    elsewhere = replace(machine.plan, cards=Cards((13, 0), ("12.0",)))
    assert gpu.is_ready(machine.plan)
    assert not gpu.is_ready(elsewhere)


def test_a_new_wheel_that_does_not_work_is_not_kept(machine: Machine) -> None:
    machine.works = False
    with pytest.raises(SetupError, match="undefined symbol"):
        set_up()
    assert machine.plan.store.wheel() is None


def test_a_gsplat_that_works_is_taken_as_it_is(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "version", lambda name: "1.5.3")
    (machine.environment / "gsplat" / "csrc.so").write_text("somebody else's")
    set_up()
    assert machine.builds == 0
    assert "gsplat 1.5.3 is installed and works" in capsys.readouterr().err

    # but not, where no card can tell, one that was built here for others
    notes = machine.plan.cache / "gsplat-1.5.3" / "sm_120" / "notes.json"
    notes.parent.mkdir(parents=True)
    library = machine.environment / "gsplat" / "csrc.so"
    notes.write_text(json.dumps({"library": wheels.digest(library)}))
    blind = replace(machine.plan, cards=Cards(None))
    assert not gpu.takes_installed(blind, lambda text: None)
    assert gpu.takes_installed(machine.plan, lambda text: None)

    # and not one that does not load
    machine.works = False
    with pytest.raises(SetupError):
        set_up()
    assert machine.builds == 1


def test_nothing_is_done_on_a_dry_run_or_without_consent(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(dry_run=True)
    assert "to be fetched" in capsys.readouterr().err
    with pytest.raises(SetupError, match="Nothing was done"):
        set_up(ask=lambda question: False)
    assert machine.builds == 0
    assert not machine.plan.cache.exists()


def test_whoever_stops_it_is_told_what_is_left(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(gpu, "build_wheel", stop)
    with pytest.raises(KeyboardInterrupt):
        set_up()
    assert gpu_setup.STOPPED in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_store_tells_torch_python_and_cards_apart(plan: Plan) -> None:
    path = plan.store.folder.as_posix()
    assert f"gsplat-{GSPLAT}/torch-2.11.0+cu130/cp3" in path
    assert path.endswith("sm_90")


@pytest.mark.skipif(torch.version.cuda is not None, reason="only where torch has no CUDA")
def test_the_command_says_all_that_is_missing() -> None:
    result = CliRunner().invoke(app, ["setup", "gpu", "--yes"])
    assert result.exit_code == 2
    assert "is a build without CUDA" in result.output


def test_an_unknown_architecture_is_refused() -> None:
    result = CliRunner().invoke(app, ["setup", "gpu", "--arch", "h100"])
    assert result.exit_code == 2
    assert "'h100'" in result.output


def test_our_own_renderer_passes_the_proof() -> None:
    assert largest_difference("cpu", torch.device("cpu")) < TOLERANCE


def test_uv_and_pip_are_asked_for_the_same(tmp_path: Path) -> None:
    wheel = tmp_path / WHEEL
    by_pip, by_uv = Installer(None).replace(wheel), Installer("/bin/uv").replace(wheel)
    assert by_pip[: len(pip())] == [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    assert by_uv[:3] == ["/bin/uv", "pip", "install"]
    for command in (by_pip, by_uv):
        assert "--no-deps" in command  # above all, torch stays as it is
        assert command[-1] == str(wheel)
    assert by_uv[by_uv.index("--reinstall-package") + 1] == "gsplat"


DRIVER = """
int cuDriverGetVersion(int* version) { *version = 13010; return 0; }
int cuInit(unsigned flags) { return flags; }
int cuDeviceGetCount(int* count) { *count = 3; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal + 100; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    *value = attribute == 75 ? (device == 101 ? 12 : 9) : attribute == 76 ? 0 : -1;
    return 0;
}
"""


def test_cards_are_asked_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "driver.so"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "driver.c")]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    monkeypatch.setattr(cards.ctypes, "CDLL", lambda name: loaded)
    assert find_cards() == Cards((13, 1), ("9.0", "12.0"))


def test_a_machine_without_a_driver_has_no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(cards.ctypes, "CDLL", refuse)
    assert find_cards() == Cards(None)

"""What is missing is said before anything starts, each with its cure."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.setup import plan as planning
from vlm3d_gs.setup.cards import Cards
from vlm3d_gs.setup.installer import Installer
from vlm3d_gs.setup.plan import MIB, Plan, describe, make_plan, obstacles
from vlm3d_gs.setup.torch_build import TorchBuild, find_torch
from vlm3d_gs.setup.wheels import GSPLAT

NO_SUCH = "there is no such thing"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Packages of torch and of CUDA's libraries, as far as they are looked at."""
    (tmp_path / "site" / "nvidia" / "cu13" / "include").mkdir(parents=True)
    return tmp_path / "site"


@pytest.fixture
def plan(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A machine on which nothing is missing."""
    monkeypatch.setattr(planning, "_externally_managed", lambda: False)
    headers = tmp_path / "headers"
    headers.mkdir()
    (headers / "Python.h").touch()
    paths = {"include": headers, "platlib": tmp_path, "stdlib": tmp_path}
    monkeypatch.setattr(planning.sysconfig, "get_path", lambda name: str(paths[name]))
    monkeypatch.setattr(planning.shutil, "which", lambda program: f"/usr/bin/{program}")
    cuda_13 = TorchBuild("2.11.0+cu130", "13.0", site / "torch")
    cards = Cards((13, 0), ("9.0",))
    cache = tmp_path / "cache"
    return Plan(cuda_13, cards, ("9.0",), Installer(None), None, cache, jobs=1)


def test_nothing_stands_in_the_way_of_a_machine_that_has_everything(plan: Plan) -> None:
    assert obstacles(plan) == []


def only(plan: Plan) -> str:
    (found,) = obstacles(plan)
    return found


def test_a_torch_without_cuda(plan: Plan) -> None:
    build = replace(plan.torch, version="2.13.0+cpu", cuda=None)
    assert "2.13.0+cpu is a build without CUDA. Run: pip install" in only(
        replace(plan, torch=build)
    )


def test_cuda_12_whose_compiler_is_no_package(plan: Plan) -> None:
    twelve = replace(plan.torch, version="2.10.0+cu128", cuda="12.8")
    assert "pip install --upgrade torch" in only(replace(plan, torch=twelve))
    # A toolkit will do.
    assert obstacles(replace(plan, torch=twelve, toolkit=Path("/usr/local/cuda-12.8"))) == []


def test_a_driver_that_is_older_than_torch(plan: Plan) -> None:
    assert "driver runs CUDA 12.4" in only(replace(plan, cards=Cards((12, 4), ("9.0",))))


def test_no_card_and_none_named(plan: Plan) -> None:
    assert "--arch 9.0" in only(replace(plan, cards=Cards(None), architectures=()))


def test_a_card_that_is_too_old(plan: Plan) -> None:
    assert "card of 7.0" in only(replace(plan, architectures=("7.0", "9.0")))


def test_another_system(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.sys, "platform", "win32")
    assert "WSL 2" in only(plan)


def test_no_compiler_and_no_headers_of_python(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "headers" / "Python.h").unlink()
    monkeypatch.setattr(planning.shutil, "which", lambda program: None)
    gxx, python = obstacles(plan)
    assert "apt install g++" in gxx
    assert "-dev" in python


def test_a_torch_whose_cuda_did_not_come_as_packages(plan: Plan, site: Path) -> None:
    shutil.rmtree(site / "nvidia")
    assert "did not come with CUDA's headers" in only(plan)


def test_an_environment_that_nothing_may_be_installed_into(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "ensurepip" in only(replace(plan, installer=None))
    monkeypatch.setattr(planning, "_externally_managed", lambda: True)
    monkeypatch.setattr(planning.sys, "prefix", planning.sys.base_prefix)
    assert "python3 -m venv" in only(plan)


def test_a_full_disk(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    needed = planning.BUILD_MIB + planning.TOOLKIT_MIB + planning.INSTALL_MIB
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda folder: usage(needed * MIB - 1))
    assert f"{needed - 1} MiB free, and {needed} are needed" in only(plan)


def test_a_kept_wheel_needs_no_compiler_and_little_room(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan.store.folder.mkdir(parents=True)
    (plan.store.folder / f"gsplat-{GSPLAT}-cp311-cp311-linux_x86_64.whl").touch()
    monkeypatch.setattr(planning.shutil, "which", lambda program: None)
    assert obstacles(plan) == []
    assert any("built before" in line for line in describe(plan))


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'9\.9'.*Known: 7\.5, 8\.0.*9\.0 an H100"):
        make_plan(["9.9"])


def test_architectures_are_sorted_and_named_once() -> None:
    assert make_plan(["12.0", "8.0", "8.0", "9.0+PTX"]).architectures == ("8.0", "9.0+PTX", "12.0")


def test_torch_is_read_without_importing_it() -> None:
    found = find_torch()
    assert found.version == torch.__version__
    assert found.cuda == torch.version.cuda
    assert found.folder == Path(torch.__file__).parent


@pytest.mark.parametrize(("standard", "wants"), [("201703", False), ("202002", True)])
def test_the_standard_that_torchs_headers_ask_for(
    tmp_path: Path, standard: str, wants: bool
) -> None:
    header = tmp_path / "include/torch/csrc/api/include/torch/all.h"
    header.parent.mkdir(parents=True)
    header.write_text(
        f"#if !defined(_MSC_VER) && __cplusplus < {standard}L\n#error newer\n#endif\n"
    )
    assert TorchBuild("2.15.0", "13.2", tmp_path).wants_cxx20() is wants

"""Wheel and sdist hold all that a run needs: installed outside the repository, one command makes a splat."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

WEIGHTS = "vlm3d_gs/mini/weights"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist, built from a copy, since a build leaves its own files in the tree."""
    root = Path(__file__).parents[2]
    room = tmp_path_factory.mktemp("release")
    copy = room / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    shutil.copytree(root / "src", copy / "src", ignore=skipped)

    backend = (
        "import setuptools.build_meta as b; b.build_sdist('../dist'); b.build_wheel('../dist')"
    )
    (room / "dist").mkdir()
    subprocess.run([sys.executable, "-c", backend], cwd=copy, check=True, capture_output=True)
    return room / "dist"


def test_both_hold_the_weights_and_the_page(dist: Path) -> None:
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert wheel.name.endswith("-py3-none-any.whl"), "without our kernels it is for every platform"
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/src/")[2] for name in archive.getnames()}
    for name in (f"{WEIGHTS}/critic/model.safetensors", "vlm3d_gs/show/page/web/page.js"):
        assert name in inside
        assert name in packed
    assert {name for name in inside if name.endswith(".py")} <= packed


def test_the_wheel_makes_a_splat_in_an_environment_of_its_own(dist: Path, tmp_path: Path) -> None:
    """Its dependencies are those of this environment; `.ci/release` and `.ci/floors` install them anew."""
    env, work = tmp_path / "env", tmp_path / "work"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    python = env / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    target = Path(sysconfig.get_path("purelib", vars={"base": str(env)}))
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    # A folder that a .pth file names has its own .pth files ignored, so an editable installation there stays unknown.
    (target / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")

    work.mkdir()
    quick = ["--steps", "2", "--set", "scene.n_init=300", "--export", "ply", "--no-critic"]
    run = [python, "-I", "-m", "vlm3d_gs", "generate", "a red cube", *quick]
    done = subprocess.run(run, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (work / "runs" / "a-red-cube" / "scene.ply").stat().st_size > 10_000

    where = [python, "-I", "-c", "import vlm3d_gs; print(vlm3d_gs.__file__)"]
    assert str(env) in subprocess.run(where, capture_output=True, text=True, check=True).stdout


def test_the_files_that_people_and_services_read_are_there(repo_root: Path) -> None:
    citation = (repo_root / "CITATION.cff").read_text(encoding="utf-8")
    assert "version: 0.1.0" in citation
    assert "2509.15772" in citation
    for name in ("ci.yml", "release.yml"):
        workflow = (repo_root / ".github" / "workflows" / name).read_text(encoding="utf-8")
        assert ".ci/" in workflow
    for script in ("run", "release", "floors"):
        path = repo_root / ".ci" / script
        assert path.stat().st_mode & 0o111, script
        subprocess.run(["bash", "-n", path], check=True)

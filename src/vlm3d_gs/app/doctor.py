"""What this machine has for a run, what is missing, and the command that installs each missing thing.

Changes nothing: what a trial run writes goes with its folder. gsplat is never imported where torch sees no CUDA device,
since newer versions start compiling on import.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from vlm3d_gs import __version__
from vlm3d_gs.core.errors import MissingDependencyError
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.render.cpu.cache import cache_folders, is_compiled, is_writable
from vlm3d_gs.setup.gsplat_state import gsplat_obstacle

State = Literal["ok", "missing", "absent"]

REQUIRED = (
    "torch",
    "numpy",
    "numba",
    "llvmlite",
    "diffusers",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "httpx2",
    "peft",
    "safetensors",
    "filelock",
    "plyfile",
    "zstandard",
    "pillow",
    "av",
    "onnxruntime",
    "jinja2",
    "scipy",
    "scikit-image",
    "fast-simplification",
    "manifold3d",
    "xatlas",
    "trimesh",
    "rich",
    "typer",
    "viser",
    "websockets",
)


SMALL_JOB: dict[str, object] = {
    "train.steps": 2,
    "train.preview_every": 0.0,
    "scene.n_init": 300,
    "reconstruct.first_chain_steps": 1,
    "reconstruct.candidates": 1,
    "reconstruct.n_groups": 1,
    "critic.watch.enabled": False,
    "export.formats": "ply",
}
"""Settings of the run that `main_job` makes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    """What was checked."""
    state: State
    """`missing` prevents a run; what is `absent` is optional."""
    detail: str
    """What was found."""
    cure: str = ""
    """What to type or do; empty if all is well."""


def inspect() -> list[Finding]:
    """Check everything that a run needs or can use, the most basic first."""
    findings = [Finding("python", "ok", platform.python_version())]
    findings += [_package(name) for name in REQUIRED]
    if find_spec("torch") is not None:
        findings += [_threads(), *_gpu()]

    return [*findings, _numba_cache(), _ffmpeg(), _weights("prior"), _weights("critic")]


def inspect_and_try() -> list[Finding]:
    """Check as `inspect` does, and where nothing is missing also make two small steps of a real run."""
    findings = inspect()
    return [*findings, main_job()] if healthy(findings) else findings


def main_job() -> Finding:
    """Make a splat by two steps: prior, critic, renderer, optimizer and export, as every run does."""
    began = time.monotonic()
    try:
        from vlm3d_gs.config import apply_settings
        from vlm3d_gs.config.presets import preset
        from vlm3d_gs.pipeline import generate

        with tempfile.TemporaryDirectory(prefix="vlm3d-gs-") as room:
            values = {**SMALL_JOB, "out": Path(room) / "run"}
            generate(apply_settings(preset("mini", "a red cube"), values), quiet=True)
    except Exception as error:
        # Whatever it is, it is what a run would end with: libraries that do not fit together, above all.
        cause = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {cause[0] if cause else 'no message'}"
        return Finding("main job", "missing", detail, "pip install --upgrade vlm3d-gs")
    return Finding("main job", "ok", f"two steps and a splat in {time.monotonic() - began:.1f} s")


def healthy(findings: list[Finding]) -> bool:
    """Return whether a run can start: nothing required is missing."""
    return all(finding.state != "missing" for finding in findings)


def report(findings: list[Finding]) -> str:
    """Return the findings as text, one per line, with the cure under each that needs one."""
    marks = {"ok": "ok", "missing": "MISSING", "absent": "-"}
    width = max(len(finding.name) for finding in findings)

    lines = [f"vlm3d-gs {__version__} on {platform.platform()}"]
    for finding in findings:
        lines.append(f"  {marks[finding.state]:<8}{finding.name:<{width}}  {finding.detail}")
        if finding.cure:
            lines.append(f"  {'':<8}{'':<{width}}  -> {finding.cure}")

    verdict = "A run can start." if healthy(findings) else "A run cannot start yet."
    return "\n".join([*lines, verdict])


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", "not installed", f"pip install {name}")


def _threads() -> Finding:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding(
        "cpu", "ok", f"{cores} cores for this process, torch uses {torch.get_num_threads()}"
    )


def _gpu() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        detail = "torch sees no CUDA device; everything runs on the CPU"
        cure = ""
        if shutil.which("nvidia-smi") and torch.version.cuda is None:
            cure = "this torch is a CPU build: pip install --force-reinstall torch (CUDA build)"
        return [
            Finding("cuda", "absent", detail, cure),
            Finding("gsplat", "absent", "only used with CUDA (vlm3d-gs setup gpu --arch X.Y)"),
        ]

    card = torch.cuda.get_device_properties(0)
    cuda = Finding(
        "cuda", "ok", f"{card.name}, {card.total_memory // 2**20} MiB, CUDA {torch.version.cuda}"
    )
    obstacle = gsplat_obstacle()
    if obstacle:
        detail = f"{obstacle}; the CPU renderer is used"
        return [cuda, Finding("gsplat", "absent", detail, "vlm3d-gs setup gpu")]
    return [cuda, Finding("gsplat", "ok", version("gsplat"))]


def _numba_cache() -> Finding:
    """Find the folder in which Numba caches the compiled renderer."""
    for folder in cache_folders():
        if is_writable(folder):
            state = "" if is_compiled() else "; the first run compiles the renderer"
            return Finding("numba cache", "ok", f"writable: {folder}{state}")

    return Finding(
        "numba cache",
        "absent",
        "not writable: the renderer is compiled again at each start (about a minute)",
        "export NUMBA_CACHE_DIR=<a folder that you can write to>",
    )


def _ffmpeg() -> Finding:
    if find_spec("av") is None:
        return Finding("ffmpeg", "absent", "no video", "pip install av")
    import av

    version = ".".join(map(str, av.library_versions["libavcodec"]))
    if "libx264" not in av.codecs_available:
        return Finding(
            "ffmpeg", "absent", "no H.264 encoder: no mp4", "pip install --force-reinstall av"
        )
    return Finding("ffmpeg", "ok", f"av {av.__version__}, libavcodec {version}")


def _weights(name: Literal["prior", "critic"]) -> Finding:
    label = f"mini {name}"
    try:
        folder = embedded_weights(name)
    except MissingDependencyError as error:
        return Finding(label, "missing", "not in this installation", str(error))
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    return Finding(label, "ok", f"{size / 2**20:.1f} MiB embedded")

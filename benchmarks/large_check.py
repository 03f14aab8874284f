"""The published weights on your GPU: three prompts with and without a critic, into one file to send.

    python benchmarks/large_check.py --out large-check            # or: make large-check

Downloads the weights of one preset and one critic if they are not in the hub's cache (`vlm3d-gs plan PROMPT --preset
mvdream --critic qwen2.5-vl-7b` says how much that is), hashes them, makes every prompt twice, and writes
large-check.json after each run: seconds, peak memory, the critic's answers, hashes of the scenes; beside it a sheet of
pictures a run. The file holds no paths, no names and no tokens. Send both in an issue (template "Result of a large
check").

A run that fails is recorded with its error, and the others go on. Exit code 1 says that one failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vlm3d_gs.app.generate import generate
from vlm3d_gs.assembly.device import run_device
from vlm3d_gs.assembly.forecast import describe_plan
from vlm3d_gs.assembly.weights import locate_models
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.run import folder_name
from vlm3d_gs.core.errors import Vlm3dGsError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.models.hub import cache_folder
from vlm3d_gs.runs.answers import to_plain
from vlm3d_gs.runs.log import provenance

PROMPTS = (
    "a corgi wearing a top hat",
    "a blue ceramic teapot on a small wooden table",
    "a zoomed out photo of a tree house with a rope ladder",
)
REPORT = "large-check.json"
BLOCK = 2**24


def configs(arguments: argparse.Namespace) -> Iterator[tuple[str, Config]]:
    """Yield name and config of each run: every prompt without a critic, then with one."""
    for prompt in arguments.prompt or PROMPTS:
        for critic in (None, arguments.critic):
            name = f"{folder_name(prompt)[:40]}{'-critic' if critic else ''}"
            values: dict[str, Any] = {
                "critic.enabled": critic is not None,
                "critic.family": critic,
                "out": arguments.out / "runs" / name,
                "export.formats": "ply,sheet",
            }
            config = apply_settings(preset(arguments.preset, prompt), values, arguments.settings)
            yield name, config


def machine() -> dict[str, Any]:
    """Return what ran: card, driver's CUDA, memory, versions."""
    found: dict[str, Any] = {**provenance(), "cpu": platform.machine(), "card": None}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {
            "card": card.name,
            "card_mib": card.total_memory // 2**20,
            "cuda": torch.version.cuda,
        }
    return found


def weights(config: Config) -> dict[str, Any]:
    """Fetch the weights of a run; return seconds, and size and hash of every file by model."""
    began = time.monotonic()
    folders = locate_models(config.priors, config.critic, offline=config.offline, progress=True)
    fetched_s = time.monotonic() - began
    files = {
        f"{name}/{path.relative_to(folder).as_posix()}": {
            "mb": round(path.stat().st_size / 1e6, 2),
            "sha256": sha256(path),
        }
        for name, folder in folders.items()
        for path in sorted(folder.rglob("*.safetensors"))
    }
    return {"seconds": round(fetched_s, 1), "files": files}


def sha256(path: Path) -> str:
    """Return the hash of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def run(name: str, config: Config, out: Path) -> dict[str, Any]:
    """Make one splat; return what is reported about it, also if it failed."""
    row: dict[str, Any] = {"name": name, "prompt": config.prompt, "steps": config.train.steps}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        made = generate(config, overwrite=config.out.exists())
    except Exception as error:
        # Whatever it is belongs into the report; paths do not.
        text = str(error).replace(str(Path.home()), "~").replace(str(cache_folder()), "CACHE")
        return {**row, "error": f"{type(error).__name__}: {text[:2000]}"}

    shutil.copy(config.out / "sheet.png", out / f"{name}.png")
    summary = json.loads((config.out / "summary.json").read_text(encoding="utf-8"))
    return row | {
        "device": str(run_device(config)),
        "seconds": round(made.seconds, 1),
        "peak_mib": round(torch.cuda.max_memory_allocated() / 2**20)
        if torch.cuda.is_available()
        else None,
        "gaussians": len(made.scene),
        "answers": to_plain(made.answers),
        "network_evaluations": summary.get("network_evaluations"),
        "runtimes": summary.get("runtimes"),
        "scene_sha256": sha256(config.out / "scene.ply"),
        "picture": f"{name}.png",
    }


def write(path: Path, report: dict[str, Any]) -> None:
    """Write the report, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Do all runs; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("large-check"), help="folder for the report"
    )
    parser.add_argument("--preset", default="mvdream")
    parser.add_argument("--critic", default="qwen2.5-vl-7b", help="8 to 24 GB: qwen2-vl-2b")
    parser.add_argument("--prompt", action="append", help="instead of the three; repeatable")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="A.B=C")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    planned = list(configs(arguments))
    print(describe_plan(planned[-1][1]), flush=True)
    report: dict[str, Any] = {
        "preset": arguments.preset,
        "critic": arguments.critic,
        "settings": arguments.settings,
        "machine": machine(),
        "weights": weights(planned[-1][1]),
        "runs": [],
    }
    for number, (name, config) in enumerate(planned, 1):
        print(f"run {number} of {len(planned)}: {name}", flush=True)
        report["runs"].append(run(name, config, arguments.out))
        write(arguments.out / REPORT, report)

    failed = [row["name"] for row in report["runs"] if "error" in row]
    print(f"{arguments.out / REPORT}: {len(planned) - len(failed)} of {len(planned)} runs made")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Vlm3dGsError as error:
        sys.exit(f"error: {error}")

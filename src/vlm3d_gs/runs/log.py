"""What a run writes: its folder, settings, metrics, summary and progress. Never decides anything.

Files in the run folder: config.json (resolved settings, versions, seed, commit), metrics.jsonl (one
object per step), summary.json; other code adds checkpoints, previews/*.png and the products.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from torch import Tensor

from vlm3d_gs import __version__
from vlm3d_gs.config import Config, to_dict
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.runs.packages import packages
from vlm3d_gs.runs.progress import ProgressDisplay

Scalar = float | int | str | bool | Tensor | None

OWN_FILES = (
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "checkpoint.safetensors",
    *(product.file for product in PRODUCTS.values()),
)
"""What a run writes into its folder, besides previews/*.png; --overwrite removes these and nothing else."""

_GIT = ("git", "--no-optional-locks")
VERSIONS_OF = ("torch", "numpy", "numba", "diffusers", "transformers", "peft", "gsplat")


def check_run_folder(out: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Refuse a folder that a run must not write into, without changing it.

    Args:
        out: the folder; its parents are created too.
        overwrite: an earlier run there will be removed (only files that it wrote).
        resume: an earlier run there will be continued.

    Raises:
        ConfigError: the folder is not empty and neither flag is set, both are set, or a run did not write the folder
            to overwrite or resume.
    """
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume contradict each other. Give one of them.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} exists and is not a folder. Choose another --out.")

    occupied = out.is_dir() and any(out.iterdir())
    if occupied and not (overwrite or resume):
        raise ConfigError(
            f"{out} exists and is not empty. Choose another --out, or add --overwrite to replace "
            f"the run in it, or --resume to continue it."
        )

    # --overwrite deletes files: never in a folder that belongs to something else.
    if occupied and not (out / "config.json").is_file():
        raise ConfigError(
            f"{out} is not the folder of a run (no config.json in it), so it is left alone. "
            f"Choose another --out."
        )


def prepare_run_folder(out: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Create the run's folder; arguments and errors as for `check_run_folder`."""
    check_run_folder(out, overwrite=overwrite, resume=resume)
    out.mkdir(parents=True, exist_ok=True)
    if overwrite:
        for path in [*(out / name for name in OWN_FILES), *(out / "previews").glob("*.png")]:
            path.unlink(missing_ok=True)


def provenance() -> dict[str, Any]:
    """Return what is stored beside every result: versions of package and libraries, commit, platform, time."""
    versions: dict[str, str | None] = {"vlm3d_gs": __version__, "python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None

    return {
        "versions": versions,
        "commit": git_commit(),
        "platform": platform.platform(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with `-dirty` if it has changes.

    None for an installed package, or where git is not available.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None

    # --no-optional-locks: asking must not write to the repository, which others may be using.
    with suppress(OSError, subprocess.SubprocessError):
        arguments = ("describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
        described = subprocess.run(
            [*_GIT, "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
        return described.stdout.strip() or None
    return None


def write_config(out: Path, config: Config) -> None:
    """Write config.json, which marks a folder as a run's."""
    content = {"config": to_dict(config), "seed": config.train.seed, **provenance()}
    write_json(out / "config.json", content)


class RunLog:
    """Writes the record of one run; a context manager.

    Args:
        out: the run's folder, as `prepare_run_folder` left it.
        config: the resolved config.
        quiet: print nothing.
        resume_step: steps done at the checkpoint of a resumed run: later rows, left by the interruption, are dropped.
            None starts a new metrics.jsonl.
    """

    def __init__(
        self, out: Path, config: Config, *, quiet: bool = False, resume_step: int | None = None
    ) -> None:
        self.out = out
        self._progress = ProgressDisplay(quiet=quiet)
        rows = _rows_up_to(out / "metrics.jsonl", resume_step) if resume_step is not None else []

        write_config(out, config)
        with atomic_path(out / "metrics.jsonl") as temporary:
            temporary.write_text("".join(rows))
        # Line-buffered: after a crash every finished line is on disk.
        self._metrics: TextIO = (out / "metrics.jsonl").open("a", buffering=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.close()
        self._metrics.close()

    def scalars(self, step: int, values: Mapping[str, Scalar]) -> None:
        """Append one row to metrics.jsonl.

        Args:
            step: steps done, this one included.
            values: name -> number, text, or one-element tensor (read here, which synchronises its
                device). A number that is not finite becomes null, since JSON has none.
        """
        row = {"step": step, **{name: _plain(value) for name, value in values.items()}}
        self._metrics.write(json.dumps(row, allow_nan=False) + "\n")

    def progress(self, step: int, total: int, values: Mapping[str, Scalar]) -> None:
        """Show how far the run is: `step` of `total`, rate, time left, and any further values.

        A live bar on a terminal; elsewhere a plain line at each tenth of the run.
        """
        self._progress.show(step, total, {name: _plain(value) for name, value in values.items()})

    def message(self, text: str) -> None:
        """Print one line for the user, above the progress bar."""
        self._progress.print(text)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Write summary.json: the outcome, with versions, commit and the list of packages."""
        write_json(self.out / "summary.json", {**values, **provenance(), "packages": packages()})


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all; numbers that are not finite become null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_plain(data), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Tensor):
        value = value.detach().item() if value.numel() == 1 else value.detach().tolist()
        return _plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _rows_up_to(path: Path, step: int) -> list[str]:
    """Return the whole rows up to a step; a row torn by a crash ends the record."""
    rows: list[str] = []
    if not path.is_file():
        return rows
    for line in path.read_text().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["step"] <= step:
            rows.append(line)
    return rows

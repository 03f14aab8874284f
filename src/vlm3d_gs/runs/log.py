"""What a run records: settings, metrics, summary and progress. Never decides anything, and never ends a run.

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
from typing import Any, Self

from torch import Tensor

from vlm3d_gs import __version__
from vlm3d_gs.config import Config, to_dict
from vlm3d_gs.core.errors import WriteError
from vlm3d_gs.core.files import atomic_path, make_folder
from vlm3d_gs.runs.folder import CONFIG, METRICS, SUMMARY, RunFolder
from vlm3d_gs.runs.packages import packages
from vlm3d_gs.runs.progress import ProgressDisplay
from vlm3d_gs.runs.rows import Rows, rows_up_to

Scalar = float | int | str | bool | Tensor | None

_GIT = ("git", "--no-optional-locks")
VERSIONS_OF = ("torch", "numpy", "numba", "diffusers", "transformers", "peft", "gsplat")


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
    write_json(out / CONFIG, content)


class RunLog:
    """Writes the record of one run; a context manager.

    Args:
        place: the run's folder, which exists.
        config: the resolved config.
        quiet: print nothing.
        resume_step: steps done at the checkpoint of a resumed run: later rows, left by the interruption, are dropped.
            None starts a new metrics.jsonl.

    Raises:
        WriteError: the first files cannot be written. Later, what cannot be written is kept and tried again, since a
            full disk may have room again.
    """

    def __init__(
        self,
        place: RunFolder | Path,
        config: Config,
        *,
        quiet: bool = False,
        resume_step: int | None = None,
    ) -> None:
        self._place, self._config = place, config
        self._progress = ProgressDisplay(quiet=quiet)
        self._warned = False
        rows = rows_up_to(self.out / METRICS, resume_step) if resume_step is not None else []

        write_config(self.out, config)
        self._metrics = Rows(self.out / METRICS, rows)

    @property
    def out(self) -> Path:
        """The run's folder."""
        return self._place if isinstance(self._place, Path) else self._place.path

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
        self._metrics.keep(json.dumps(row, allow_nan=False) + "\n")
        try:
            self.ensure()
            self._metrics.flush()
        except WriteError as error:
            if not self._warned:
                self.message(f"warning: {error} The run goes on, and tries again.")
            self._warned = True

    def ensure(self) -> None:
        """Make the folder anew, with what this log knows, if somebody deleted it while the run went on.

        Raises:
            WriteError: the file system refuses.
        """
        if not (self.out / METRICS).exists():
            rows = self._metrics.content()
            make_folder(self.out)
            write_config(self.out, self._config)
            self._metrics.replace(self.out / METRICS, rows)

    def rewind(self, step: int) -> None:
        """Drop the rows after a step, to which the run goes back."""
        with suppress(WriteError):
            self._metrics.replace(self.out / METRICS, rows_up_to(self.out / METRICS, step))

    def progress(self, step: int, total: int, values: Mapping[str, Scalar]) -> None:
        """Show how far the run is: `step` of `total`, rate, time left, and any further values.

        A live bar on a terminal; elsewhere a plain line at each tenth of the run.
        """
        self._progress.show(step, total, {name: _plain(value) for name, value in values.items()})

    def message(self, text: str) -> None:
        """Print one line for the user, above the progress bar."""
        self._progress.print(text)

    def detail(self, text: str) -> None:
        """Print one line for a user who asked for details (`progress.in_detail`)."""
        self._progress.detail(text)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Write summary.json: the outcome, with versions, commit and the list of packages.

        Raises:
            WriteError: the file system refuses.
        """
        self.ensure()
        write_json(self.out / SUMMARY, {**values, **provenance(), "packages": packages()})


class SilentLog(RunLog):
    """The log of a process that only computes for a run: nothing is recorded or shown."""

    def __init__(self) -> None:
        """Open nothing."""

    def scalars(self, step: int, values: Mapping[str, Scalar]) -> None:
        """Do nothing."""

    def rewind(self, step: int) -> None:
        """Do nothing."""

    def progress(self, step: int, total: int, values: Mapping[str, Scalar]) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Do nothing."""


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

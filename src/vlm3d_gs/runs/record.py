"""What a run's folder records: the prompt, the outcome and the curves.

Reads config.json, metrics.jsonl and summary.json as `runs.log` writes them. Only config.json is
required: an interrupted run has no summary, and a crash may tear the last row of the metrics.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import InputFileError

SPLAT = "scene.ply"
MOST_STEPS = 2**53
"""Larger numbers of steps are damage; a double holds no more."""
MAX_POINTS = 300
"""Longer curves are thinned to this many points; each is the mean of the steps it stands for."""


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    """Short name."""
    steps: tuple[int, ...]
    """Steps done, increasing."""
    values: tuple[float | None, ...]
    """One per step; None where the run logged no finite number."""


@dataclass(frozen=True)
class Chart:
    """Curves that share an axis."""

    title: str
    """What it shows."""
    series: tuple[Series, ...]
    """At least one."""


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run's folder."""

    prompt: str
    """The sentence; empty if the config has none."""
    planned_steps: int | None
    """Steps in the config; None if it has no such number."""
    config: dict[str, Any] = field(repr=False)
    """config.json, with seed, versions and commit."""
    summary: dict[str, Any] = field(repr=False)
    """summary.json; empty for an unfinished run."""
    rows: tuple[dict[str, Any], ...] = field(repr=False)
    """metrics.jsonl, one object per step."""


def find_splat(path: Path) -> tuple[Path, RunRecord | None]:
    """Return the splat file that a path stands for, and the record if the path is a run's folder.

    Args:
        path: a splat file, or the folder of a run.

    Raises:
        InputFileError: nothing is there, or the folder is not that of a finished run.
    """
    if not path.is_dir():
        if not path.is_file():
            raise InputFileError(f"There is no file or run folder {path}.")
        return path, None

    record = read_record(path)
    if not (path / SPLAT).is_file():
        raise InputFileError(
            f"The run in {path} has no {SPLAT} yet. Let it finish, continue it with --resume, or add "
            "ply to --export."
        )
    return path / SPLAT, record


def default_output(source: Path, name: str) -> Path:
    """Return where a product of a run or a splat file goes if nobody says: into the run, or beside the file.

    Args:
        source: a run's folder, or a splat file.
        name: of the product in a run's folder.

    Example:
        >>> default_output(Path("demo.spz"), "mesh.glb").name
        'demo-mesh.glb'
    """
    if source.is_dir():
        return source / name
    return source.with_name(f"{source.stem}-{name}")


def read_record(folder: Path) -> RunRecord:
    """Read the record of a run, finished or not.

    Raises:
        InputFileError: the folder is not that of a run, or config.json or summary.json is damaged.
    """
    if not (folder / "config.json").is_file():
        raise InputFileError(
            f"{folder} is not the folder of a run: it has no config.json. "
            "Make one with `vlm3d-gs generate PROMPT --out DIR`."
        )

    # The file may come from another version: take what is there and has the expected type.
    config = _object(folder / "config.json")
    settings = config.get("config", config)
    settings = settings if isinstance(settings, dict) else {}
    train = settings.get("train")
    steps = train.get("steps") if isinstance(train, dict) else None
    prompt = settings.get("prompt")

    summary = folder / "summary.json"
    return RunRecord(
        prompt=prompt if isinstance(prompt, str) else "",
        planned_steps=steps if isinstance(steps, int) and steps > 0 else None,
        config=config,
        summary=_object(summary) if summary.is_file() else {},
        rows=_rows(folder / "metrics.jsonl"),
    )


def charts(record: RunRecord) -> tuple[Chart, ...]:
    """Return the curves worth showing: rewards, losses and the number of Gaussians."""
    # A dictionary and not a set, to keep the order in which the run logged them.
    names = {name: None for row in record.rows for name in row if name != "step"}
    rewards = [name for name in names if name.startswith("critic/") and name != "critic/loss"]
    priors = [name for name in names if name in ("prior/loss", "detail/loss")]

    groups = (
        ("Reward, log-odds of Yes", rewards),
        ("Prior loss", priors),
        ("Critic loss", [name for name in names if name == "critic/loss"]),
        ("Gaussians", [name for name in names if name == "gaussians"]),
    )

    found = []
    for title, group in groups:
        series = [_series(record.rows, name) for name in group]
        kept = tuple(item for item in series if any(value is not None for value in item.values))
        if kept:
            found.append(Chart(title, kept))
    return tuple(found)


def _series(rows: tuple[dict[str, Any], ...], name: str) -> Series:
    """Return one name's values over the steps, thinned."""
    points = [(row["step"], number(row[name])) for row in rows if name in row]
    stride = math.ceil(len(points) / MAX_POINTS)

    steps, values = [], []
    for start in range(0, len(points), max(stride, 1)):
        chunk = points[start : start + stride]
        finite = [value for _, value in chunk if value is not None]
        steps.append(chunk[-1][0])
        values.append(float(f"{sum(finite) / len(finite):.6g}") if finite else None)
    return Series(name.rpartition("/")[2], tuple(steps), tuple(values))


def number(value: Any) -> float | None:
    """Return a recorded value as a finite number; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return found if math.isfinite(found) else None


def _object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputFileError(f"Cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise InputFileError(
            f"{path} must hold one JSON object, but it holds a {type(data).__name__}."
        )
    return data


def _rows(path: Path) -> tuple[dict[str, Any], ...]:
    """Return the whole rows; the first torn one ends the record."""
    rows: list[dict[str, Any]] = []
    last = -1
    if not path.is_file():
        return ()

    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        step = row.get("step") if isinstance(row, dict) else None
        # A damaged number may be of any size; steps increase.
        if not isinstance(step, int) or not last < step <= MOST_STEPS:
            break
        last = step
        rows.append(row)
    return tuple(rows)

"""What a run's folder tells about the run: the prompt, how it went, and its curves.

Reads config.json, metrics.jsonl and summary.json as `runlog` writes them. Only config.json must be
there: an interrupted run has no summary, and a crash may tear the last row of the metrics.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import InputFileError

SPLAT = "scene.ply"
MOST_POINTS = 300
"""Points a curve is thinned to; each is the mean of the steps it stands for."""


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    """Short name."""
    steps: tuple[int, ...]
    """Steps done, growing."""
    values: tuple[float | None, ...]
    """One a step; None where the run logged no finite number."""


@dataclass(frozen=True)
class Chart:
    """Curves that share an axis."""

    title: str
    """What is shown."""
    series: tuple[Series, ...]
    """At least one."""


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder tells."""

    prompt: str
    """The sentence; empty if the config names none."""
    planned_steps: int | None
    """Steps asked for."""
    config: dict[str, Any] = field(repr=False)
    """config.json with seed, versions and commit, as plain data."""
    summary: dict[str, Any] = field(repr=False)
    """summary.json, or empty."""
    rows: tuple[dict[str, Any], ...] = field(repr=False)
    """metrics.jsonl, one object a step."""


def find_splat(given: Path) -> tuple[Path, RunRecord | None]:
    """Return the splat file that a path means, and the record when the path is a run's folder.

    Args:
        given: a splat file, or the folder of a run.

    Raises:
        InputFileError: nothing is there, or the folder is not that of a finished run.
    """
    if not given.is_dir():
        if not given.is_file():
            raise InputFileError(f"There is no file or run folder {given}.")
        return given, None
    record = read_record(given)
    if not (given / SPLAT).is_file():
        raise InputFileError(
            f"The run in {given} has no {SPLAT} yet. Let it finish, go on with it by --resume, or add "
            "ply to --export."
        )
    return given / SPLAT, record


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
    config = _object(folder / "config.json")
    settings = config.get("config", config)
    settings = settings if isinstance(settings, dict) else {}
    train = settings.get("train")
    steps = train.get("steps") if isinstance(train, dict) else None
    summary = folder / "summary.json"
    return RunRecord(
        prompt=str(settings.get("prompt") or ""),
        planned_steps=steps if isinstance(steps, int) else None,
        config=config,
        summary=_object(summary) if summary.is_file() else {},
        rows=_rows(folder / "metrics.jsonl"),
    )


def charts(record: RunRecord) -> tuple[Chart, ...]:
    """Return the curves worth showing: rewards, losses, and how many Gaussians there were."""
    names = {name: None for row in record.rows for name in row if name != "step"}
    rewards = [name for name in names if name.startswith("critic/") and name != "critic/loss"]
    priors = [name for name in names if name in ("prior/loss", "detail/loss")]
    wanted = (
        ("Reward, log-odds of Yes", rewards),
        ("Prior loss", priors),
        ("Critic loss", [name for name in names if name == "critic/loss"]),
        ("Gaussians", [name for name in names if name == "gaussians"]),
    )
    made = []
    for title, group in wanted:
        series = [_series(record.rows, name) for name in group]
        kept = tuple(item for item in series if any(value is not None for value in item.values))
        if kept:
            made.append(Chart(title, kept))
    return tuple(made)


def _series(rows: tuple[dict[str, Any], ...], name: str) -> Series:
    """Return one name's values over the steps, thinned."""
    points = [(row["step"], _number(row[name])) for row in rows if name in row]
    share = math.ceil(len(points) / MOST_POINTS)
    steps, values = [], []
    for start in range(0, len(points), max(share, 1)):
        some = points[start : start + share]
        finite = [value for _, value in some if value is not None]
        steps.append(some[-1][0])
        values.append(float(f"{sum(finite) / len(finite):.6g}") if finite else None)
    return Series(name.rpartition("/")[2], tuple(steps), tuple(values))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputFileError(f"Cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise InputFileError(
            f"{path} should hold one JSON object, it holds a {type(data).__name__}."
        )
    return data


def _rows(path: Path) -> tuple[dict[str, Any], ...]:
    """Return the whole rows; the first torn one ends the record."""
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return ()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    return tuple(rows)

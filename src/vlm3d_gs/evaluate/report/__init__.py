"""One offline HTML file that compares groups of runs: pictures that turn together, tables, curves, settings.

The page makes no requests: its policy forbids them, and allows only the one script written here. All that comes from
runs is data, shown as text.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm3d_gs import __version__
from vlm3d_gs.core.cameras import turntable_cameras
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import to_uint8
from vlm3d_gs.evaluate.groups import Duel, Group, RunFacts, differing_settings, summaries
from vlm3d_gs.render import Backend
from vlm3d_gs.show.framing import BACKGROUND, DISTANCE, FOV_DEG, framed, render_frames
from vlm3d_gs.show.page import embedded_json, policy

FRAMES, COLUMNS, SIZE_PX = 24, 6, 160
"""Views of a turntable, how many are in a row of its picture, and the side of each."""
ELEVATION_DEG = 15.0
QUALITY = 82
"""Of WebP."""


def turntable_sprite(gaussians: Gaussians, *, backend: Backend = "auto") -> str:
    """Return a picture of all views of a turn, in rows, as the address of a WebP file in the page."""
    cameras = turntable_cameras(FRAMES, ELEVATION_DEG, DISTANCE, FOV_DEG, SIZE_PX, SIZE_PX)
    frames = render_frames(framed(gaussians, own=True), cameras, BACKGROUND, backend)
    pictures = [to_uint8(frame) for frame in frames]
    rows = [
        np.concatenate(pictures[start : start + COLUMNS], axis=1)
        for start in range(0, FRAMES, COLUMNS)
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows, axis=0)).save(buffer, format="WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def report_data(
    groups: Sequence[Group], judges: Sequence[str], found: Sequence[Duel], notes: Sequence[str]
) -> dict[str, Any]:
    """Return everything that a comparison found, as plain data.

    Args:
        groups: what was compared.
        judges: names of those with scores.
        found: groups against each other.
        notes: what a reader must know, e.g. that a judge is the critic's own network.
    """
    return {
        "made_by": f"vlm3d-gs {__version__}",
        "notes": list(notes),
        "groups": summaries(groups, judges),
        "duels": [asdict(duel) for duel in found],
        "settings": differing_settings(groups),
        "runs": [
            {"group": index, **_run(run)}
            for index, group in enumerate(groups)
            for run in group.runs
        ],
    }


def _run(run: RunFacts) -> dict[str, Any]:
    return {
        "run": run.path.name,
        "prompt": run.prompt,
        "seed": run.seed,
        "seconds": run.seconds,
        "steps": run.steps,
        "gaussians": run.gaussians,
        "checked": run.checked,
        "scores": run.scores,
        "answers": run.answers,
        "charts": [asdict(chart) for chart in run.charts],
    }


def write_report(data: dict[str, Any], sprites: Sequence[str], path: str | Path) -> None:
    """Write the page, whole or not at all.

    Args:
        data: of `report_data`.
        sprites: a turntable for each run, in the order of `data["runs"]`.
        path: the file; replaced if it exists.

    Raises:
        ExportError: the folder does not exist.
    """
    style, script = _source("report.css"), '"use strict";\n' + _source("report.js")
    shape = {"frames": FRAMES, "columns": COLUMNS, "size_px": SIZE_PX}
    values = {
        "policy": policy(script, style),
        "style": style,
        "script": script,
        "data": embedded_json({**data, "sprites": list(sprites), "turn": shape}),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _source("report.html"))
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def _source(name: str) -> str:
    return (files("vlm3d_gs.evaluate.report") / "web" / name).read_text(encoding="utf-8")

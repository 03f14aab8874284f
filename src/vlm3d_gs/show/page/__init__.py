"""One offline HTML file that shows a splat: data, viewer and text in a single page.

The page makes no requests: its policy forbids them, and allows only the one script written here, by
its hash. The sources of the viewer are in `web/`. External input (prompt, names, numbers) is
inserted as escaped text or JSON and is only ever displayed as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlm3d_gs import __version__
from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.rotations import nonzero_quats
from vlm3d_gs.render import conventions
from vlm3d_gs.runs.record import RunRecord, charts, number
from vlm3d_gs.show.framing import DISTANCE, FOV_DEG, bounds

SCRIPTS = ("splats.js", "renderer.js", "orbit.js", "curves.js", "page.js")
"""Joined in this order into the page's one script."""
ELEVATION_DEG = 15.0
"""Elevation of the initial view, which is from the front."""
HALF_MAX = 60_000.0
"""Colour coefficients are clipped to this, since they are stored as half floats."""


def write_page(
    gaussians: Gaussians, path: str | Path, *, name: str, record: RunRecord | None = None
) -> None:
    """Write the page, whole or not at all; same arguments, same bytes.

    Args:
        gaussians: N >= 1 finite Gaussians, at any position and scale.
        path: the file; replaced if it exists.
        name: title of the page if no prompt is known, and file name of saved pictures.
        record: the run that made the splat: prompt, facts and curves.

    Raises:
        ExportError: no Gaussians, a NaN or an infinity, or the folder does not exist.
    """
    head, blob = pack(gaussians)
    story = _story(gaussians, head, name, record)
    style = _source("style.css")
    script = '"use strict";\n(() => {\n' + "\n".join(map(_source, SCRIPTS)) + "})();\n"

    prompt = story["prompt"] or name
    values = {
        "policy": policy(script, style),
        "title": html.escape(prompt),
        "prompt": html.escape(prompt),
        "style": style,
        "script": script,
        "story": embedded_json(story),
        "splats": base64.b64encode(blob).decode("ascii"),
    }
    # In one pass, so that a prompt that looks like a placeholder is not replaced.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _source("page.html"))

    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def pack(gaussians: Gaussians) -> tuple[dict[str, Any], bytes]:
    """Return a header that describes the splats, and the splats as little-endian bytes.

    Centres float32 [N, 3]; natural logarithms of the scales uint16 [N, 3], linear between the two
    numbers of `log_scale_range`; quaternions wxyz int16 [N, 4]; opacities uint16 [N], 65535 is 1;
    harmonics float16 [N, K, 3]. In all 28 + 6 K bytes a splat.

    Raises:
        ExportError: no Gaussians, a NaN or an infinity.
    """
    if len(gaussians) == 0:
        raise ExportError("There are no Gaussians to show: the scene is empty.")
    for label, tensor in gaussians.parameters().items():
        bad = int((~tensor.isfinite()).sum())
        if bad:
            raise ExportError(f"Cannot show the scene: {bad} values of {label} are not finite.")

    scene = gaussians.detach().to("cpu", torch.float64)
    logs = scene.log_scales.numpy()
    low, high = float(logs.min()), float(logs.max())
    unit = (high - low) / 65535 or 1.0  # all scales equal: any step will do

    quats = torch.nn.functional.normalize(nonzero_quats(scene.quats), dim=-1)

    columns: list[NDArray[Any]] = [
        scene.means.numpy().astype("<f4"),
        np.rint((logs - low) / unit).astype("<u2"),
        np.rint(quats.numpy() * 32767).astype("<i2"),
        np.rint(scene.opacities.numpy() * 65535).astype("<u2"),
        scene.sh.clamp(-HALF_MAX, HALF_MAX).numpy().astype("<f2"),
    ]
    head = {
        "count": len(scene),
        "coefficients": scene.sh.shape[1],
        "log_scale_range": [low, low + 65535 * unit],
    }

    return head, b"".join(column.tobytes() for column in columns)


def policy(script: str, style: str) -> str:
    """Return the content security policy that allows exactly this script and style, and no request."""
    allowed = {
        name: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for name, text in (("script-src", script), ("style-src", style))
    }
    rules = {"default-src": "'none'", **allowed, "worker-src": "blob:", "img-src": "data:"}
    rules |= {"base-uri": "'none'", "form-action": "'none'"}
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _story(
    gaussians: Gaussians, head: dict[str, Any], name: str, record: RunRecord | None
) -> dict[str, Any]:
    """Return all that the page shows beside the splats, as plain data for JSON."""
    center, radius = bounds(gaussians)
    degree = gaussians.sh_degree

    return {
        "name": re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "splat",
        "prompt": record.prompt if record else "",
        "counts": f"{len(gaussians):,} Gaussians",
        "facts": [
            ("Gaussians", f"{len(gaussians):,}"),
            ("Colour", "the same from all sides" if degree == 0 else f"harmonics, degree {degree}"),
            *(_facts(record) if record else ()),
            ("Page by", f"vlm3d-gs {__version__}"),
        ],
        "charts": [asdict(chart) for chart in charts(record)] if record else [],
        "splats": head,
        # The viewer draws by the conventions of our renderer.
        "near": conventions.NEAR,
        "constants": {
            "alpha_cap": conventions.ALPHA_CAP,
            "alpha_floor": conventions.ALPHA_FLOOR,
            "dilation_px2": conventions.DILATION_PX2,
            "frustum_margin": conventions.FRUSTUM_MARGIN,
            "antialiased": gaussians.antialiased,
        },
        "camera": {
            "azimuth_deg": 0.0,
            "elevation_deg": ELEVATION_DEG,
            "distance": DISTANCE * radius,
            "fov_deg": FOV_DEG,
            "target": [float(value) for value in center],
        },
    }


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    """Return facts about a run as text; facts that it does not record are skipped."""
    summary, config = record.summary, record.config

    # Without a summary the run was interrupted: the last row of its metrics tells how far it came.
    done = summary.get("steps", record.rows[-1]["step"] if record.rows else None)
    steps = None if done is None else f"{done} of {record.planned_steps or done}"
    seconds = number(summary.get("seconds"))

    versions = summary.get("versions", config.get("versions"))
    version = versions.get("vlm3d_gs") if isinstance(versions, dict) else None
    written = summary.get("written", config.get("written"))

    facts = (
        ("Steps", steps),
        ("Time", None if seconds is None else f"{seconds:.0f} s"),
        ("Seed", config.get("seed")),
        ("Preset", summary.get("preset")),
        ("Written", str(written).replace("T", " ")[:16] if written else None),
        ("Made by", None if version is None else f"vlm3d-gs {version}"),
        ("Commit", _short(summary.get("commit"))),
    )
    return [(label, str(value)) for label, value in facts if value is not None]


def _short(commit: object) -> str | None:
    """Return the start of a commit, with `-dirty` if the checkout was edited."""
    name, edited, _ = str(commit or "").partition("-dirty")
    return name[:12] + edited or None


def embedded_json(data: dict[str, Any]) -> str:
    """Return JSON that cannot close the script element it is embedded in, whatever it holds."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _source(name: str) -> str:
    return (files("vlm3d_gs.show.page") / "web" / name).read_text(encoding="utf-8")

"""index.html of a batch: all assets with their turntables, to filter by words and outcome. Offline, in one file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from vlm3d_gs.batch.outcome import Outcome
from vlm3d_gs.core.files import atomic_path

INDEX = "index.html"
FILMS = ("turntable.mp4", "turntable.webp", "turntable.gif", "sheet.png")
"""What a card shows: the first of them that the asset has."""
DATA, SCRIPT, STYLE, POLICY = "{{data}}", "{{script}}", "{{style}}", "{{policy}}"


def write_index(out: Path, rows: Sequence[Outcome]) -> Path:
    """Write the page of a batch and return its file.

    Args:
        out: folder of the batch; links lead into it.
        rows: outcomes in the order of the list.

    Raises:
        WriteError: the file system refuses.
    """
    web = files("vlm3d_gs.batch") / "web"
    script, style, page = (
        (web / name).read_text(encoding="utf-8") for name in ("index.js", "index.css", "index.html")
    )

    # No text of a prompt may end the element that holds it.
    data = json.dumps([_card(row) for row in rows], ensure_ascii=True).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src 'self' file:; "
        "media-src 'self' file:"
    )
    for mark, text in ((POLICY, policy), (STYLE, style), (SCRIPT, script), (DATA, data)):
        page = page.replace(mark, text)

    with atomic_path(out / INDEX) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out / INDEX


def _card(row: Outcome) -> dict[str, Any]:
    """Return what the page shows of an asset."""
    film = next((name for name in FILMS if name in row.files), None)
    return {
        "id": row.id,
        "prompt": row.prompt,
        "seed": row.seed,
        "status": row.status,
        "seconds": row.seconds,
        "score": row.held_out,
        "folder": row.folder,
        "film": film,
        "files": list(row.files),
        "reason": row.reason,
    }


def _hash(text: str) -> str:
    """Return a text as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

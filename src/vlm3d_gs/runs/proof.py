"""What an asset says of its making: prompt, seed, models with licences and hashes of weights, verdicts of judges.

It stands in `scene.json` of the run, and in `asset.extras` of a .glb, both under the name `proof`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.runs.folder import SCENE_FILE

PROOF = "proof"
"""Name of the proof in scene.json and in a .glb's extras."""
VERSION = 1


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputFileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputFileError(f"Cannot read {path}: {error}") from error


def read_proof(folder: Path) -> dict[str, Any] | None:
    """Return the proof in a run's scene.json, None without one.

    Raises:
        InputFileError: scene.json is damaged.
    """
    content = _content(folder / SCENE_FILE)
    found = content.get(PROOF)
    return found if isinstance(found, dict) else None


def write_proof(folder: Path, proof: dict[str, Any]) -> None:
    """Put a proof into a run's scene.json, beside what else is in it.

    Raises:
        InputFileError: scene.json is damaged.
        ExportError: the folder does not exist.
    """
    path = folder / SCENE_FILE
    content = {**_content(path), PROOF: proof}
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputFileError(f"Cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise InputFileError(f"{path} must hold one JSON object.")
    return data


def proof_text(proof: dict[str, Any]) -> str:
    """Return a proof as lines for people; it may come from anywhere and be of any shape."""
    lines = [
        f"  made by {proof.get('made_by')} from {proof.get('prompt')!r}, seed {proof.get('seed')}"
    ]
    for model in _dicts(proof.get("models")):
        weights = str(model.get("weights"))[:12]
        named = f"{model.get('name')} ({model.get('licence')})"
        lines.append(f"    {model.get('role')}: {named}, weights {weights}")
    for verdict in _dicts(proof.get("verdicts")):
        lines.append(f"    {verdict.get('judge')}: {json.dumps(verdict.get('said'))}")
    return "\n".join(lines)


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []

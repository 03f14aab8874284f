"""The proof that a splat carries, found without loading any judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlm3d_gs.formats.gltf.document import is_gltf
from vlm3d_gs.formats.gltf.extras import read_extras
from vlm3d_gs.runs.proof import PROOF, read_proof
from vlm3d_gs.runs.record import find_splat


def with_proof(target: Path) -> tuple[Path, dict[str, Any] | None]:
    """Return the splat that a target stands for, and the proof that it carries, if any.

    Raises:
        InputFileError: nothing is there, or a folder is not that of a finished run.
    """
    splat, record = find_splat(target)
    if record is not None:
        return splat, read_proof(target)
    return splat, read_extras(splat, PROOF) if is_gltf(splat) else None

"""Objects of a scene that was made before, taken over into another: what is called the same need not be made again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.edit.transform import euler_rotation, transformed
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.runs.folder import SCENE_FILE, SUMMARY


def earlier_objects(folder: Path) -> dict[str, Gaussians]:
    """Return the objects of a finished scene, each in its own frame, by their prompts.

    Args:
        folder: of the run.

    Raises:
        InputFileError: it holds no finished scene of objects, or a file is damaged.
    """
    try:
        rows = json.loads((folder / SCENE_FILE).read_text(encoding="utf-8"))["objects"]
        finished = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["finished"]
    except OSError:
        raise InputFileError(
            f"{folder} holds no scene of objects ({SCENE_FILE} is missing). Give the folder of a run of several "
            "objects."
        ) from None
    except (ValueError, LookupError, TypeError) as error:
        raise InputFileError(f"{folder / SCENE_FILE} is damaged: {error!r}.") from None
    if not finished:
        raise InputFileError(
            f"The scene in {folder} was interrupted. Finish it first: vlm3d-gs generate --resume --out {folder} "
            "with its prompt."
        )

    objects: dict[str, Gaussians] = {}
    for row in rows:
        try:
            objects.setdefault(str(row["prompt"]), _in_own_frame(folder, row))
        except (LookupError, TypeError, ValueError) as error:
            raise InputFileError(f"{folder / SCENE_FILE} is damaged: {error!r}.") from None
    return objects


def _in_own_frame(folder: Path, row: dict[str, Any]) -> Gaussians:
    """Return the first thing of an object as it was before it was put in place."""
    things = row["things"]
    placed = read_splat(folder / row["file"])
    first = placed.select(torch.arange(len(placed) // len(things)))
    pose = things[0]
    scale, moved = float(pose["scale"]), torch.tensor(pose["translation"], dtype=torch.float64)
    if not (scale > 0.0 and math.isfinite(scale)) or moved.shape != (3,):
        raise InputFileError(f"{folder / SCENE_FILE} is damaged: no pose is {pose}.")

    # The inverse of p -> scale * turn(p) + translation.
    back = euler_rotation((0.0, 0.0, -float(pose["turn_deg"])))
    return transformed(first, scale=1.0 / scale, rotation=back, translation=-(back @ moved) / scale)

"""Objects of a scene that was made before, taken over into another: what is called the same need not be made again."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.gaussians import Gaussians, concatenate
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
    objects: dict[str, Gaussians] = {}
    for part in scene_parts(folder).values():
        objects.setdefault(part.prompt, part.own)
    return objects


@dataclass(frozen=True, eq=False)
class ScenePart:
    """An object of a finished scene."""

    name: str
    prompt: str
    placed: Gaussians
    """All things of it, where they stand."""
    own: Gaussians
    """The first of them as it was before it was put in place."""
    poses: tuple[tuple[float, Tensor, Tensor], ...]
    """Scale, turn [3, 3] and translation [3] of each thing."""

    def at_its_places(self, cloud: Gaussians) -> Gaussians:
        """Return a cloud in the object's own frame at every place where the object stands."""
        return concatenate(
            [
                transformed(cloud, scale=scale, rotation=turn, translation=moved)
                for scale, turn, moved in self.poses
            ]
        )


def scene_parts(folder: Path) -> dict[str, ScenePart]:
    """Return the objects of a finished scene by their names.

    Args:
        folder: of the run, or its splat.

    Raises:
        InputFileError: as `earlier_objects`.
    """
    folder = folder if folder.is_dir() else folder.parent
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

    parts: dict[str, ScenePart] = {}
    for row in rows:
        try:
            parts[str(row["name"])] = _part(folder, row)
        except (LookupError, TypeError, ValueError) as error:
            raise InputFileError(f"{folder / SCENE_FILE} is damaged: {error!r}.") from None
    return parts


def _part(folder: Path, row: dict[str, Any]) -> ScenePart:
    """Return an object of scene.json."""
    placed = read_splat(folder / row["file"])
    poses = tuple(_pose(folder, thing) for thing in row["things"])
    first = placed.select(torch.arange(len(placed) // len(poses)))

    # The inverse of p -> scale * turn(p) + translation.
    scale, turn, moved = poses[0]
    own = transformed(
        first, scale=1.0 / scale, rotation=turn.T, translation=-(turn.T @ moved) / scale
    )
    return ScenePart(str(row["name"]), str(row["prompt"]), placed, own, poses)


def _pose(folder: Path, thing: dict[str, Any]) -> tuple[float, Tensor, Tensor]:
    """Return scale, turn and translation of a thing."""
    scale = float(thing["scale"])
    moved = torch.tensor(thing["translation"], dtype=torch.float64)
    if not (scale > 0.0 and math.isfinite(scale)) or moved.shape != (3,):
        raise InputFileError(f"{folder / SCENE_FILE} is damaged: no pose is {thing}.")
    return scale, euler_rotation((0.0, 0.0, float(thing["turn_deg"]))), moved

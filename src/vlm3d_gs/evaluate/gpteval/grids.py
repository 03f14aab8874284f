"""The picture of a comparison: two objects side by side, each a square grid of views, pictures above normals."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.images import BROKEN_PICTURE, MAX_PIXELS
from vlm3d_gs.evaluate.gpteval.tournament import Ensemble

U8 = NDArray[np.uint8]


def count_views(folder: Path) -> int:
    """Return the number of views of an object, in pictures and normals alike; 0 where one of them lacks some."""
    counts = [len(list(folder.glob(f"{kind}_*.png"))) for kind in ("rgb", "normal")]
    return counts[0] if counts[0] == counts[1] else 0


def view_numbers(available: int, views: int) -> list[int]:
    """Return which views are shown: evenly spaced, from the first on, as GPTEval3D picks them.

    Args:
        available: number of views on disk.
        views: number of views to show, at most `available`.

    Raises:
        InputFileError: there are too few.
    """
    if available < views:
        raise InputFileError(f"A comparison needs {views} views of each object, got {available}.")
    return [index * (available // views) for index in range(views)]


def object_grid(folder: Path, ensemble: Ensemble) -> U8:
    """Return the views of one object, [rows, columns, 3] bytes.

    Args:
        folder: with rgb_0.png, normal_0.png and so on.
        ensemble: what is shown of it.

    Raises:
        InputFileError: a picture is missing, damaged, or of another size than the first.
    """
    numbers = view_numbers(count_views(folder), ensemble.views)
    kinds = [kind for kind, shown in (("rgb", ensemble.rgb), ("normal", ensemble.normal)) if shown]
    side = math.isqrt(ensemble.views)

    blocks = []
    for kind in kinds:
        pictures = [_read(folder / f"{kind}_{number}.png") for number in numbers]
        if len({picture.shape for picture in pictures}) > 1:
            raise InputFileError(f"The pictures in {folder} are not all of one size.")
        rows = [
            np.concatenate(pictures[start : start + side], axis=1)
            for start in range(0, len(pictures), side)
        ]
        blocks.append(np.concatenate(rows, axis=0))
    return np.concatenate(blocks, axis=0)


def comparison(first: Path, second: Path, ensemble: Ensemble) -> bytes:
    """Return the PNG file of two objects, the first on the left.

    Raises:
        InputFileError: a picture is missing or damaged, or both are not of one size.
    """
    left, right = object_grid(first, ensemble), object_grid(second, ensemble)
    if left.shape[0] != right.shape[0]:
        raise InputFileError(
            f"The pictures in {first} and {second} differ in size ({left.shape[0]} and {right.shape[0]} px high "
            "in the grid). Make both at the same --size."
        )
    buffer = io.BytesIO()
    picture = Image.fromarray(np.concatenate([left, right], axis=1))
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _read(path: Path) -> U8:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputFileError(f"{path} has more than {MAX_PIXELS} pixels.")
            return np.asarray(picture.convert("RGB"))
    except BROKEN_PICTURE as error:
        raise InputFileError(f"{path} is not a readable PNG file: {error}") from error

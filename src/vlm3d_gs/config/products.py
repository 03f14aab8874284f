"""The table of products: what a run can leave in its folder, by the names of `export.formats`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlm3d_gs.formats.registry import WRITTEN


@dataclass(frozen=True, slots=True)
class Product:
    """One row: a file that a run writes on request."""

    file: str
    """Name in the run's folder."""
    kind: Literal["splat", "page", "mesh", "turntable", "sheet"]
    """What writes it."""


PRODUCTS = {
    **{row.product: Product(f"scene{row.suffixes[0]}", "splat") for row in WRITTEN},
    "html": Product("scene.html", "page"),
    "mesh": Product("mesh.glb", "mesh"),
    "mp4": Product("turntable.mp4", "turntable"),
    "gif": Product("turntable.gif", "turntable"),
    "webp": Product("turntable.webp", "turntable"),
    "sheet": Product("sheet.png", "sheet"),
}

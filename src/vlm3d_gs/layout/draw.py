"""A layout to look at: from above and from the front, as a picture and as text for a terminal."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.prompts import COLORS
from vlm3d_gs.layout.graph import SceneObject
from vlm3d_gs.layout.meaning import relation_holds
from vlm3d_gs.layout.shapes import HOLE, Box, half_width_at, shape_of
from vlm3d_gs.layout.solver import Layout

PANEL_PX, MARGIN_PX, LEGEND_PX = 480, 24, 22
"""Side of a view, space around views, height of a line of the legend."""
ROWS, COLUMNS = 17, 36
"""Of a view in the terminal; a character is about twice as high as it is wide."""
VIEWS = ("from above, the front below", "from the front")
BACKGROUND, INK, FAINT = (250, 250, 250), (30, 30, 30), (205, 205, 205)
OTHERS = ("silver", "tan", "plum", "khaki", "skyblue", "salmon", "palegreen", "rosybrown")
"""Fills of objects without a colour in their words."""


def draw_png(layout: Layout, path: str | Path) -> None:
    """Write both views beside each other as a PNG file, with the names below.

    Raises:
        ExportError: the folder does not exist.
    """
    objects, font = layout.graph.objects, ImageFont.load_default(15)
    height = PANEL_PX + 3 * MARGIN_PX + LEGEND_PX * ((len(objects) + 1) // 2)
    width = 2 * PANEL_PX + 3 * MARGIN_PX
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(image)

    for view, title in enumerate(VIEWS):
        left = MARGIN_PX + view * (PANEL_PX + MARGIN_PX)
        draw.text((left, 4), title, fill=INK, font=font)
        draw.ellipse(
            (left, MARGIN_PX, left + PANEL_PX, MARGIN_PX + PANEL_PX), outline=FAINT, fill="white"
        )
        for box in _far_to_near(layout, view):
            _draw_thing(draw, layout, box, view, left)

    for index, item in enumerate(objects):
        x = MARGIN_PX + (index % 2) * (PANEL_PX + MARGIN_PX)
        y = PANEL_PX + 2 * MARGIN_PX + LEGEND_PX * (index // 2)
        draw.rectangle((x, y + 3, x + 14, y + 17), fill=_fill(layout, item.name), outline=INK)
        draw.text((x + 22, y), f"{_letter(index)}  {_legend(item)}", fill=INK, font=font)

    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def draw_text(layout: Layout) -> str:
    """Return both views as characters, one letter an object, then what each letter means and what holds."""
    pictures = [_characters(layout, view) for view in (0, 1)]
    titles = "  ".join(title.ljust(COLUMNS) for title in VIEWS).rstrip()
    lines = [titles, *("  ".join(rows).rstrip() for rows in zip(*pictures, strict=True)), ""]

    graph, things = layout.graph, layout.things()
    for index, item in enumerate(graph.objects):
        lines.append(f"{_letter(index)}  {_legend(item)}")
        for box in things[item.name]:
            center = " ".join(f"{value:+.2f}" for value in box.center)
            half = " ".join(f"{value:.2f}" for value in box.half_extents)
            lines.append(f"     at {center}, half extents {half}")

    lines += [""] if graph.relations else []
    for relation in graph.relations:
        mark = "holds" if relation_holds(graph, relation, things) else "WRONG"
        lines.append(f"{mark}: {graph.sentence(relation)}")
    return "\n".join(lines)


def _characters(layout: Layout, view: int) -> list[str]:
    """Return the rows of one view."""
    across = (np.arange(COLUMNS) + 0.5) / COLUMNS * 2.0 - 1.0
    along = 1.0 - (np.arange(ROWS) + 0.5) / ROWS * 2.0
    right, up = np.meshgrid(across, along)
    picture = np.where(right**2 + up**2 <= 1.0, ".", " ")

    for box in _far_to_near(layout, view):
        picture[_covers(layout, box, view)(right, up)] = _letter(layout.graph.index(box.name))
    return ["".join(row) for row in picture]


Covers = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]


def _covers(layout: Layout, box: Box, view: int) -> Covers:
    """Return which points of a view a thing covers; points are right and up, -1 to 1."""
    item, (middle_right, middle_up) = layout.graph.find(box.name), _place(box, view)
    shape = shape_of(item)
    half_right, half_up = box.half_extents[1], box.half_extents[0 if view == 0 else 2]

    def covers(right: np.ndarray, up: np.ndarray) -> np.ndarray:
        off_right, off_up = np.abs(right - middle_right), up - middle_up
        if view == 0 and shape in ("sphere", "cylinder", "cone", "torus"):
            distance = np.hypot(off_right, off_up)
            hole = HOLE * box.size if shape == "torus" else 0.0
            return (distance <= half_right) & (distance >= hole)
        if view == 0 or shape in ("box", "cube", "cylinder"):
            return (off_right <= half_right) & (np.abs(off_up) <= half_up)
        return off_right <= half_width_at(shape, off_up / box.size) * box.size

    return covers


def _draw_thing(draw: ImageDraw.ImageDraw, layout: Layout, box: Box, view: int, left: int) -> None:
    item = layout.graph.find(box.name)
    shape, fill = shape_of(item), _fill(layout, box.name)
    half_right, half_up = box.half_extents[1], box.half_extents[0 if view == 0 else 2]
    right, up = _place(box, view)

    def pixel(x: float, y: float) -> tuple[float, float]:
        scale = PANEL_PX / 2.0
        return left + scale * (1.0 + x), MARGIN_PX + scale * (1.0 - y)

    low, high = pixel(right - half_right, up + half_up), pixel(right + half_right, up - half_up)
    if shape == "sphere" or (view == 0 and shape in ("cylinder", "cone", "torus")):
        draw.ellipse((*low, *high), fill=fill, outline=INK, width=2)
        if shape == "torus":
            hole = HOLE * box.size
            inner = (*pixel(right - hole, up + hole), *pixel(right + hole, up - hole))
            draw.ellipse(inner, fill="white", outline=INK, width=2)
        if shape == "cone":
            x, y = pixel(right, up)
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=INK)
    elif shape == "cone":
        corners = [pixel(right, up + half_up), high, pixel(right - half_right, up - half_up)]
        draw.polygon(corners, fill=fill, outline=INK, width=2)
    elif shape == "torus":
        draw.rounded_rectangle(
            (*low, *high), (high[1] - low[1]) / 2, fill=fill, outline=INK, width=2
        )
    else:
        draw.rectangle((*low, *high), fill=fill, outline=INK, width=2)

    text = f"{_letter(layout.graph.index(box.name))}{box.number + 1 if item.count > 1 else ''}"
    place = pixel(right + (0.84 * half_right if shape == "torus" and view == 0 else 0.0), up)
    font = ImageFont.load_default(14)
    draw.text(
        place, text, fill="black", font=font, anchor="mm", stroke_width=2, stroke_fill="white"
    )


def _place(box: Box, view: int) -> tuple[float, float]:
    """Return where a thing is in a view: right, and up. Seen from above, the front is below."""
    x, y, z = box.center
    return (y, -x) if view == 0 else (y, z)


def _far_to_near(layout: Layout, view: int) -> list[Box]:
    axis = 2 if view == 0 else 0
    return sorted(layout.boxes, key=lambda box: box.center[axis] + box.half_extents[axis])


def _fill(layout: Layout, name: str) -> str:
    item, index = layout.graph.find(name), layout.graph.index(name)
    words = [*item.attributes, *item.noun.split()]
    return next((word for word in words if word in COLORS), OTHERS[index % len(OTHERS)])


def _letter(index: int) -> str:
    return string.ascii_uppercase[index]


def _legend(item: SceneObject) -> str:
    return f"{item.name}: {str(item).removeprefix('the ')}"

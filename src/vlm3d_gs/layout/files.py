"""Layout files: a scene graph as JSON, with or without the boxes that were found for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from vlm3d_gs.core.errors import InputFileError, LayoutError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.layout.graph import SceneGraph
from vlm3d_gs.layout.meaning import violations
from vlm3d_gs.layout.schema import graph_from_plain, graph_to_plain
from vlm3d_gs.layout.shapes import Box, reach
from vlm3d_gs.layout.solver import Layout, solve_layout

MOST_BYTES = 2**20
"""Larger files are something else."""
DIGITS = 6
"""Decimals of lengths that are written: a millionth of the scene."""


def read_layout(path: str | Path, prompt: str = "") -> Layout:
    """Read a layout file. Boxes that it holds are checked and kept; without them they are found.

    Args:
        path: the file.
        prompt: of the scene, if the file has none.

    Raises:
        InputFileError: the file cannot be read, or is no JSON.
        LayoutError: it does not follow the schema, its sentences cannot hold together, or do not hold for its boxes.
    """
    data = _parsed(Path(path))
    try:
        return layout_from_plain(data, prompt)
    except LayoutError as error:
        raise LayoutError(f"{path}: {error}") from None


def write_layout(layout: Layout, path: str | Path) -> None:
    """Write a layout file, whole or not at all; `read_layout` reads it back.

    Raises:
        ExportError: the folder does not exist.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(layout_text(layout), encoding="utf-8")


def layout_text(layout: Layout) -> str:
    """Return the JSON of a layout."""
    return json.dumps(layout_to_plain(layout), indent=2, ensure_ascii=False) + "\n"


def layout_to_plain(layout: Layout) -> dict[str, Any]:
    """Return a layout as plain data for JSON."""
    boxes = [
        {
            "object": box.name,
            "number": box.number,
            "center": [round(value, DIGITS) + 0.0 for value in box.center],
            "half_extents": [round(value, DIGITS) for value in box.half_extents],
            "size": round(box.size, DIGITS),
        }
        for box in layout.boxes
    ]
    return {**graph_to_plain(layout.graph), "boxes": boxes}


def layout_from_plain(data: object, prompt: str = "") -> Layout:
    """Return the layout that plain data describes; see `read_layout`.

    Raises:
        LayoutError: as `read_layout`.
    """
    graph = graph_from_plain(data, prompt)
    assert isinstance(data, Mapping)
    if not data.get("boxes"):
        return solve_layout(graph)

    boxes = [
        Box(
            item["object"],
            int(item["number"]),
            _three(item["center"]),
            _three(item["half_extents"]),
            float(item["size"]),
        )
        for item in data["boxes"]
    ]
    order = {item.name: index for index, item in enumerate(graph.objects)}
    _check_boxes(graph, boxes)
    layout = Layout(graph, tuple(sorted(boxes, key=lambda box: (order[box.name], box.number))))

    wrong = violations(graph, layout.things())
    if wrong:
        listed = "; ".join(f"'{one}'" for one in wrong)
        raise LayoutError(
            f"its boxes are not as it says: {listed}. Move them, or change what is said, or leave the boxes out to "
            "have them found."
        )
    return layout


def _check_boxes(graph: SceneGraph, boxes: list[Box]) -> None:
    """Require one box for each thing, inside the unit ball."""
    wanted = {(item.name, number) for item in graph.objects for number in range(item.count)}
    given = [(box.name, box.number) for box in boxes]
    if sorted(given) != sorted(wanted):
        missing = sorted(wanted - set(given))
        spare = sorted(set(given) - wanted) or sorted(
            {one for one in given if given.count(one) > 1}
        )
        raise LayoutError(
            "its boxes must be one for each thing; "
            + ("missing: " if missing else "not wanted: ")
            + ", ".join(f"{name} {number}" for name, number in missing or spare)
            + ". Leave the boxes out to have them found."
        )

    for box in boxes:
        radius = reach(graph.find(box.name), box)
        if radius > 1.0 + 1e-6:
            raise LayoutError(
                f"the box of {box.name} {box.number} reaches {radius:.2f} from the middle; the scene must stay "
                "inside the unit ball. Move or shrink it."
            )


def _parsed(path: Path) -> object:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise InputFileError(f"{path} is larger than a layout can be ({MOST_BYTES} bytes).")
        return json.loads(data, parse_constant=_refuse)
    except OSError as error:
        raise InputFileError(f"Cannot read the layout {path}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise InputFileError(
            f"{path} is not the JSON of a layout ({error}). `vlm3d-gs layout PROMPT --out FOLDER` writes one to start "
            "from."
        ) from None


def _refuse(constant: str) -> NoReturn:
    raise InputFileError(f"A layout holds finite numbers only, got {constant}.")


def _three(values: list[float]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])

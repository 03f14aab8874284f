"""layout.draw: what is where in the pictures of a layout, for eyes and for terminals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vlm3d_gs.layout.draw import COLUMNS, MARGIN_PX, PANEL_PX, draw_png, draw_text
from vlm3d_gs.layout.grammar import parse_scene
from vlm3d_gs.layout.solver import solve_layout

LAYOUT = solve_layout(
    parse_scene(
        "a red cube on top of a blue sphere, to the left of a green cone, in front of a yellow torus"
    )
)


def test_the_picture_shows_colours_where_the_boxes_are(tmp_path: Path) -> None:
    draw_png(LAYOUT, tmp_path / "layout.png")
    pixels = np.asarray(Image.open(tmp_path / "layout.png").convert("RGB")).astype(int)
    left, right = pixels[:, : MARGIN_PX + PANEL_PX], pixels[:, MARGIN_PX + PANEL_PX :]

    def place(view: np.ndarray, color: tuple[int, int, int]) -> tuple[float, float]:
        rows, columns = np.nonzero((view[: MARGIN_PX + PANEL_PX] == color).all(axis=-1))
        return float(rows.mean()), float(columns.mean())

    red, blue, green, yellow = (255, 0, 0), (0, 0, 255), (0, 128, 0), (255, 255, 0)
    assert place(right, red)[0] < place(right, blue)[0]  # above it
    assert place(right, red)[1] < place(right, green)[1]  # left of it
    assert place(left, red)[1] < place(left, green)[1]
    assert place(left, red)[0] > place(left, yellow)[0]  # in front: lower in the view from above


def test_the_terminal_shows_the_same() -> None:
    text = draw_text(LAYOUT)
    rows = text.splitlines()[1:18]
    above, front = [row[:COLUMNS] for row in rows], [row.ljust(80)[COLUMNS + 2 :] for row in rows]

    def place(view: list[str], letter: str) -> tuple[float, float]:
        cells = [(y, x) for y, row in enumerate(view) for x, one in enumerate(row) if one == letter]
        return sum(y for y, _ in cells) / len(cells), sum(x for _, x in cells) / len(cells)

    assert place(front, "A")[0] < place(front, "B")[0]
    assert place(above, "A")[1] < place(above, "C")[1]
    assert place(above, "A")[0] > place(above, "D")[0]
    assert text.count("holds: ") == 3
    assert "A  red_cube: red cube" in text

"""A sheet of scenes of many objects, from the front and from the side: docs/pictures/scenes.webp.

    python benchmarks/scene_pictures.py RUN RUN ... --out docs/pictures/scenes.webp

Takes the folders of finished runs, as `benchmarks/scenes.py make` leaves them, in the order given.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.images import to_uint8
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.render import render
from vlm3d_gs.show.framing import BACKGROUND, DISTANCE, FOV_DEG

SIDE_PX, CAPTION_PX, COLUMNS = 208, 44, 4
AZIMUTHS_DEG, ELEVATION_DEG = (0.0, 55.0), 22.0
INK, PAPER = (30, 30, 30), (255, 255, 255)


def tile(run: Path) -> Image.Image:
    """Return a scene's views beside each other, with its prompt below."""
    splat = read_splat(run / "scene.ply")
    cameras = orbit(list(AZIMUTHS_DEG), ELEVATION_DEG, DISTANCE, FOV_DEG, SIDE_PX, SIDE_PX)
    with torch.no_grad():
        color = render(splat, cameras, background=BACKGROUND).color

    picture = Image.new("RGB", (len(AZIMUTHS_DEG) * SIDE_PX, SIDE_PX + CAPTION_PX), PAPER)
    for index, view in enumerate(color):
        picture.paste(Image.fromarray(to_uint8(view)), (index * SIDE_PX, 0))
    prompt = json.loads((run / "config.json").read_text())["config"]["prompt"]
    lines = textwrap.wrap(prompt, 62)
    ImageDraw.Draw(picture).multiline_text((6, SIDE_PX + 4), "\n".join(lines[:3]), fill=INK)
    return picture


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=COLUMNS // 2)
    arguments = parser.parse_args()

    tiles = [tile(run) for run in arguments.runs]
    width, height = tiles[0].size
    rows = -(-len(tiles) // arguments.columns)
    sheet = Image.new("RGB", (arguments.columns * width, rows * height), PAPER)
    for index, one in enumerate(tiles):
        row, column = divmod(index, arguments.columns)
        sheet.paste(one, (column * width, row * height))
    sheet.save(arguments.out, quality=80)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()

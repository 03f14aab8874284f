"""Make a splat from a sentence, look at it from four sides, and save the picture.

Usage: python examples/01_generate_and_look.py

About a minute on two cores; needs no GPU and no network.
"""

from __future__ import annotations

from pathlib import Path

import vlm3d_gs
from vlm3d_gs.config import apply_settings
from vlm3d_gs.core.images import save_png, tile_grid

PROMPT = "a red cube on top of a blue sphere"


def main(out: Path = Path("runs/example-01"), steps: int = 300) -> None:
    """Generate into a new folder and write look.png beside the results."""
    config = apply_settings(
        vlm3d_gs.preset("mini", PROMPT),
        {"out": out, "train.steps": steps, "export.formats": "ply,spz"},
    )
    result = vlm3d_gs.generate(config)
    print(f"{len(result.gaussians)} Gaussians in {result.seconds:.0f} s: {result.files}")

    cameras = vlm3d_gs.orbit(
        [0.0, 90.0, 180.0, 270.0],
        elevations_deg=15.0,
        distance=3.4,
        fov_deg=40.0,
        width=256,
        height=256,
    )
    rendering = vlm3d_gs.render_views(result.gaussians, cameras, background=(1.0, 1.0, 1.0))
    save_png(tile_grid(rendering.color, columns=4), out / "look.png")


if __name__ == "__main__":
    main()

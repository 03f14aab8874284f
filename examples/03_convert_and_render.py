"""Read a splat of any format, render a view of it with depth, and write it in another format.

Usage: python examples/03_convert_and_render.py SPLAT, e.g. runs/example-01/scene.ply
"""

from __future__ import annotations

import sys
from pathlib import Path

import vlm3d_gs
from vlm3d_gs.core.images import save_png


def main(source: Path, out: Path) -> None:
    """Write front.png, depth.png and scene.spz into a folder."""
    scene = vlm3d_gs.read_splat(source)
    print(f"{source}: {len(scene)} Gaussians, harmonics of degree {scene.sh_degree}")

    front = vlm3d_gs.orbit(0.0, 10.0, distance=3.4, fov_deg=40.0, width=512, height=512)
    rendering = vlm3d_gs.render_views(scene, front, background=(1.0, 1.0, 1.0))
    out.mkdir(parents=True, exist_ok=True)
    save_png(rendering.color[0], out / "front.png")

    # Depth is along the camera's axis, weighted by opacity: near is bright, empty is black.
    nearness = rendering.alpha[0] / rendering.depth[0].clamp_min(1.0)
    save_png((nearness / nearness.max()).expand(-1, -1, 3), out / "depth.png")

    vlm3d_gs.write_splat(scene, out / "scene.spz")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path("runs/example-03"))
    except (IndexError, vlm3d_gs.Vlm3dGsError) as error:
        sys.exit(f"{error}\n{__doc__}")

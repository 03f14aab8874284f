"""Time rendering, forward and backward, at the sizes that a run uses.

    python benchmarks/bench_render.py [--out DIR] [--threads N] [--quick]

Scenes are balls of round Gaussians (SH degree 0, radius 0.6, opacity 0.3, seed 0), each as wide as the gap to its
neighbours, seen from views spread over the azimuth at distance 3.2 with a field of view of 40 degrees. The loss is
cheap: mean squared colour plus mean alpha. Each row has its floor (render_floor.py). `reference` is timed where its
dense tensors fit into memory. On a CPU with gsplat installed, `gsplat torch` is a renderer made of gsplat's own torch
functions (gsplat_torch.py); its pictures are first checked against ours. `GOMP_SPINCOUNT=10000`, as the command line
sets it, keeps torch's idle threads from taking the renderer's cores.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gsplat_torch
import harness
import torch
from render_floor import floor_ms, pairs, rates
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.render import render

CASES = ((2_000, 64, 4), (10_000, 256, 4), (50_000, 512, 1))
"""Gaussians, pixels a side, views."""
GREY = (0.5, 0.5, 0.5)
OURS = ("cpu", "gsplat")
"""Backends that a run can use; the others are timed twice, without a warm-up."""
REFERENCE_LIMIT = 1.5e8
"""Largest product of pixels per view and Gaussians for `reference`, which holds about eight float64
tensors of that size."""


def scene(n: int, device: str) -> Gaussians:
    """Return a ball of n Gaussians that require gradients."""
    cloud = ball(n, 0.6, torch.Generator().manual_seed(0), opacity=0.3, color_noise=0.2)
    return cloud.to(device).requires_grad_()


def backends() -> list[str]:
    """Return the backends that can be timed here."""
    if torch.cuda.is_available():
        return ["gsplat", "cpu", "reference"]
    return ["cpu", "reference", *(["gsplat torch"] if gsplat_torch.functions() else [])]


def render_with(backend: str, gaussians: Gaussians, cameras: Cameras) -> Tensor:
    """Return the colours, [C, H, W, 3], or colours and alpha, [C, H, W, 4]."""
    if backend == "gsplat torch":
        return gsplat_torch.render_by_gsplat(gaussians, cameras, torch.tensor(GREY))
    rendering = render(gaussians, cameras, backend=backend, background=GREY)
    return torch.cat([rendering.color, rendering.alpha], -1)


def check(gaussians: Gaussians, cameras: Cameras) -> None:
    """Fail unless the rival's pictures match ours, up to Gaussians at tile edges that one of the two skips."""
    ours, theirs = (render_with(b, gaussians, cameras)[..., :3] for b in ("cpu", "gsplat torch"))
    difference = float((ours - theirs).abs().mean())
    if difference > 1e-3:
        raise AssertionError(f"the renderers differ by {difference:.4f} in the mean")


def spread_views(size_px: int, views: int) -> Cameras:
    """Return views spread over the azimuth."""
    azimuths = [360.0 * view / views for view in range(views)]
    return orbit(azimuths, 15.0, 3.2, 40.0, size_px, size_px)


rates_of = cache(rates)


@cache
def pairs_of(n: int, size_px: int, views: int) -> int:
    """Return the Gaussian-pixel pairs of a case."""
    return pairs(scene(n, "cpu"), spread_views(size_px, views))


def time_case(n: int, size_px: int, views: int, backend: str, repeats: int) -> list[dict[str, Any]]:
    """Return one row for the forward pass alone and one for forward and backward."""
    gaussians = scene(n, "cuda" if backend == "gsplat" else "cpu")
    frozen = gaussians.detach()
    cameras = spread_views(size_px, views).to(gaussians.device)
    n_pairs = pairs_of(n, size_px, views)
    floors = floor_ms(gaussians, cameras, n_pairs, rates_of(gaussians.device))

    if backend == "gsplat torch":
        check(frozen, cameras)

    def forward() -> None:
        render_with(backend, frozen, cameras)

    def forward_backward() -> None:
        picture = render_with(backend, gaussians, cameras)
        color, alpha = picture[..., :3], picture[..., 3:]
        (color.square().mean() + alpha.sum() / picture[..., 0].numel()).backward()
        for value in gaussians.parameters().values():
            value.grad = None

    rows = []
    passes = (("forward", forward), ("forward+backward", forward_backward))
    for (name, function), least in zip(passes, floors, strict=True):
        timing = harness.measure(function, warm_up=3 if backend in OURS else 0, repeats=repeats)
        case = {
            "backend": backend,
            "gaussians": n,
            "size_px": size_px,
            "views": views,
            "pass": name,
            "pairs": n_pairs,
            "floor_ms": round(least, 3),
            "times_the_floor": round(timing.median_ms / least, 1),
            "median_ms_a_view": round(timing.median_ms / views, 3),
        }
        rows.append(harness.row(case, timing))
        print(
            f"{backend:12} {n:6} Gaussians {size_px:3} px x {views}  {name:16} median {timing.median_ms:8.1f} ms"
            f"  quartiles {timing.quartile_low_ms:.1f}..{timing.quartile_high_ms:.1f}"
            f"  best {timing.best_ms:.1f}  CPU {timing.cpu_median_ms:.1f}  floor {least:.2f}"
        )
    return rows


def main() -> None:
    """Time all cases on all backends and write the JSON."""
    parser = harness.arguments("Time rendering, forward and backward.")
    parser.add_argument("--quick", action="store_true", help="few repeats, no rivals")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rows: list[dict[str, Any]] = []
    for backend in backends():
        for n, size_px, views in CASES:
            too_large = backend == "reference" and n * size_px * size_px > REFERENCE_LIMIT
            if too_large or (options.quick and backend not in OURS):
                continue

            repeats = (10 if options.quick else 50) if backend in OURS else 2
            rows += time_case(n, size_px, views, backend, repeats)

    print(f"written: {harness.record('render', rows, options.out)}")


if __name__ == "__main__":
    main()

"""How a step scales with Gaussians, pixels, views and the critic's interval, and rendering with covered pixels.

    python benchmarks/bench_scaling.py [--preset mini] [--steps 20] [--threads 2]

One setting is changed at a time; the rest is the preset's, except that Gaussians are neither added nor removed. All
schedules are squeezed into the steps. Cases take turns, one block of steps each, `--rounds` times; a row holds the
median of the blocks and the floor of the networks' operations. The last curve renders one scene with growing Gaussians:
the Gaussian-pixel pairs grow, and nothing else does.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from harness import arguments, measure, record, row

from vlm3d_gs.app.bench import BenchReport, measure_run
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import PRESETS, preset
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.render import render

PROMPT = "a red cube on top of a blue sphere"
CURVES: dict[str, dict[str, dict[str, Any]]] = {
    "gaussians": {
        str(n): {"scene.n_init": n, "scene.max_gaussians": n}
        for n in (1_000, 4_000, 16_000, 64_000)
    },
    "pixels a side": {str(n): {"camera.resolution_px": n} for n in (32, 64, 128, 256)},
    "views": {str(4 * n): {"camera.n_groups": n} for n in (1, 2, 4)},
    "critic every": {
        **{str(n): {"critic.every": n} for n in (1, 2, 4, 8)},
        "4, gradient reused": {"critic.every": 4, "critic.reuse": True},
        "never": {"critic.enabled": False},
    },
}
"""Curve -> point -> settings. The models keep their own resolution, so pixels only affect the renderer."""
RENDER_CASE = (5_000, 256)
"""Gaussians and side, px, of the last curve."""
GROWTH = (0.5, 1.0, 2.0, 4.0, 8.0)


def config_of(name: str, steps: int, settings: dict[str, Any]) -> Config:
    """Return the preset with one setting changed."""
    fixed: dict[str, Any] = {
        "train.steps": steps,
        "train.loop": "distill",
        "densify.enabled": False,
    }
    if name.startswith("mini"):
        fixed |= {"prior.size_px": 64, "critic.size_px": 64}
    return apply_settings(preset(name, PROMPT), fixed | settings)


def steps_curves(name: str, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each point of each curve."""
    rows = []
    for curve, points in CURVES.items():
        runs: dict[str, list[BenchReport]] = {point: [] for point in points}
        for _ in range(rounds):
            for point, settings in points.items():
                config, first = config_of(name, steps, settings), not runs[point]
                runs[point].append(measure_run(config, floors=first))

        for point, reports in runs.items():
            parts = {key for report in reports for key in report.sections_ms}
            mean = {k: statistics.median(r.sections_ms.get(k, 0.0) for r in reports) for k in parts}
            networks = sum(v for k, v in mean.items() if k.startswith(("prior", "critic")))
            rendering = mean.get("render forward", 0.0) + mean.get("render backward", 0.0)
            whole = [report.whole_ms for report in reports]

            rows.append(
                {
                    "curve": curve,
                    "at": point,
                    "step_ms": round(statistics.median(whole), 2),
                    "render_ms": round(rendering, 2),
                    "networks_ms": round(networks, 2),
                    "networks_floor_ms": round(sum(reports[0].floor_ms.values()), 2),
                    "rest_ms": round(statistics.median(whole) - rendering - networks, 2),
                    "best_ms": round(min(whole), 2),
                    "worst_ms": round(max(whole), 2),
                }
            )
            print(rows[-1], flush=True)
    return rows


def grown(factor: float) -> Gaussians:
    """Return the scene of the last curve with Gaussians enlarged by a factor along each axis."""
    cloud = ball(RENDER_CASE[0], 0.6, torch.Generator().manual_seed(0), opacity=0.1)
    values = cloud.parameters()
    values["log_scales"] = values["log_scales"] + torch.tensor(factor).log()
    return Gaussians.from_parameters(values).requires_grad_()


def render_curve(rounds: int) -> list[dict[str, Any]]:
    """Return rows of forward and backward by Gaussian-pixel pairs, counted as the area of each radius."""
    side = RENDER_CASE[1]
    cameras = orbit([30.0], 15.0, 3.2, 40.0, side, side)
    rows = []
    for factor in GROWTH:
        gaussians = grown(factor)
        radii = render(gaussians, cameras).radii.detach().double()
        pairs = float((torch.pi * radii.reshape(-1).square()).clamp_max(side**2).sum())

        def forward_backward(gaussians: Gaussians = gaussians) -> None:
            rendering = render(gaussians, cameras)
            (rendering.color.square().mean() + rendering.alpha.mean()).backward()

        case = {"curve": "covered pixels", "at": f"x{factor:g}", "pairs": round(pairs)}
        timing = measure(forward_backward, warm_up=2, repeats=10 * rounds)
        case["ns_a_pair"] = round(1e6 * timing.median_ms / pairs, 3)
        rows.append(row(case, timing))
        print({key: rows[-1][key] for key in (*case, "median_ms")}, flush=True)
    return rows


def main() -> None:
    """Time all curves and write the JSON."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="mini")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rows = steps_curves(options.preset, options.steps, options.rounds)
    rows += render_curve(options.rounds)
    print(record(f"scaling_{options.preset}", rows, options.out))


if __name__ == "__main__":
    main()

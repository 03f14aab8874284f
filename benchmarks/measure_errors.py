"""How often are the measures of geometry wrong? 500 generated objects, half of them sound, half with one known fault.

    python benchmarks/measure_errors.py --cases 500

Objects are single primitives of the mini world with a patch of another colour (a face) on one side. Faults: the face
is on 2 to 4 sides; blobs hang beside the object; the object is squeezed along a level axis. How strong a fault is, is
drawn too, so some are at the edge of what anybody would call one. Every measure is applied to every object.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from harness import arguments, record

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.prompts import COLORS, SHAPES, parse_composition
from vlm3d_gs.evaluate.geometry import Geometry, measure_geometry
from vlm3d_gs.mini.world.scenes import PALETTE, build_scene
from vlm3d_gs.mini.world.splats import scene_to_gaussians

FAULTS = ("none", "a face on several sides", "loose parts", "flat")
COUNT = 2500


def case(number: int) -> tuple[str, float, Gaussians]:
    """Return the fault, its strength and the object of a case; even numbers are sound."""
    source = np.random.default_rng(number)
    fault = "none" if number % 2 == 0 else FAULTS[1 + (number // 2) % 3]
    body, face = source.choice([name for name in COLORS if name != "white"], 2, replace=False)
    shape = source.choice([name for name in SHAPES if name != "torus"])

    scene = build_scene(parse_composition(f"a {body} {shape}"), source)
    gaussians = scene_to_gaussians(scene, COUNT, torch.Generator().manual_seed(number))
    sides = int(source.integers(2, 5)) if fault == FAULTS[1] else 1
    gaussians = with_faces(gaussians, str(face), sides, source)
    strength = float(sides)
    if fault == FAULTS[2]:
        strength = float(source.uniform(0.06, 0.16))
        gaussians = with_blob(gaussians, strength, source)
    if fault == FAULTS[3]:
        strength = float(source.uniform(0.15, 0.55))
        gaussians = squeezed(gaussians, strength, float(source.uniform(0.0, math.pi)))
    return fault, strength, gaussians


def with_faces(
    gaussians: Gaussians, color: str, sides: int, source: np.random.Generator
) -> Gaussians:
    """Paint patches on so many sides, evenly spaced from a drawn one."""
    azimuth = torch.atan2(gaussians.means[:, 1], gaussians.means[:, 0])
    first, half = float(source.uniform(-math.pi, math.pi)), float(source.uniform(0.35, 0.6))
    painted = torch.zeros(len(gaussians), dtype=torch.bool)
    for side in range(sides):
        turn = azimuth - first - 2.0 * math.pi * side / sides
        painted |= torch.cos(turn) > math.cos(half)

    sh = gaussians.sh.clone()
    sh[painted, 0] = (torch.tensor(PALETTE[color]) - 0.5) / SH_C0
    return gaussians.changed({"sh": sh})


def with_blob(gaussians: Gaussians, radius: float, source: np.random.Generator) -> Gaussians:
    """Move a random share of the Gaussians into a ball beside the object."""
    count = int(len(gaussians) * 0.06)
    chosen = torch.from_numpy(source.choice(len(gaussians), count, replace=False))
    reach = float(gaussians.means.norm(dim=1).max())
    turn, height = float(source.uniform(0, 2 * math.pi)), float(source.uniform(-0.3, 0.3))
    away = reach + radius + 0.15
    center = torch.tensor([away * math.cos(turn), away * math.sin(turn), height])
    offsets = torch.from_numpy(source.normal(size=(count, 3))).float()
    offsets = radius * offsets / offsets.norm(dim=1, keepdim=True)
    means = gaussians.means.clone()
    means[chosen] = center + offsets
    return gaussians.changed({"means": means})


def squeezed(gaussians: Gaussians, factor: float, turn: float) -> Gaussians:
    """Scale the positions along one level axis."""
    axis = torch.tensor([math.cos(turn), math.sin(turn), 0.0])
    along = gaussians.means @ axis
    means = gaussians.means + (factor - 1.0) * along[:, None] * axis
    return gaussians.changed({"means": means})


def main() -> None:
    """Measure all cases and write how often each measure was wrong."""
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=500)
    given = parser.parse_args()

    found: list[tuple[str, float, Geometry]] = []
    for number in range(given.cases):
        fault, strength, gaussians = case(number)
        found.append((fault, strength, measure_geometry(gaussians)))
        if number % 50 == 49:
            print(f"{number + 1} of {given.cases}", flush=True)

    rows = []
    for measure in FAULTS[1:]:
        faulty = [measure in one.faults for fault, _, one in found if fault == measure]
        others = [measure in one.faults for fault, _, one in found if fault != measure]
        sound = [measure in one.faults for fault, _, one in found if fault == "none"]
        missed = [
            round(strength, 3)
            for fault, strength, one in found
            if fault == measure and measure not in one.faults
        ]
        rows.append(
            {
                "measure": measure,
                "faulty": len(faulty),
                "missed": 1.0 - sum(faulty) / len(faulty),
                "sound": len(sound),
                "false_alarms_on_sound": sum(sound) / len(sound),
                "false_alarms_on_all_others": sum(others) / len(others),
                "strengths_missed": sorted(missed),
            }
        )
        print(rows[-1], flush=True)
    print(record("measure_errors", rows, given.out))


if __name__ == "__main__":
    main()

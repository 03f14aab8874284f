"""Does the installed gsplat work? Loads it and renders one splat on each card beside our definition.

A program of its own (`python -m vlm3d_gs.setup.proof`), so that the gsplat of this moment is asked, not one imported
before, and torch is loaded only when there is something to prove.
"""

from __future__ import annotations

import importlib
import json
import sys

import torch

from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render import Backend, render

TOLERANCE = 1.0 / 255.0
"""Of colour and alpha; a pixel at the edge may fall on either side of the smallest alpha that is drawn, 1/255."""


def main() -> None:
    """Print what came out as one line of JSON; an import that fails ends the program with its traceback."""
    importlib.import_module("gsplat.csrc")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = {torch.cuda.get_device_properties(index).name for index in range(count)}
    differences = [
        largest_difference("gsplat", torch.device("cuda", index)) for index in range(count)
    ]

    difference = max(differences, default=0.0)
    agrees = difference <= TOLERANCE
    answer = {"card": ", ".join(sorted(names)), "difference": difference, "agrees": agrees}
    sys.stdout.write(json.dumps(answer) + "\n")


def largest_difference(backend: Backend, device: torch.device) -> float:
    """Return how far a backend's picture of one splat is from the definition's, in colour or alpha, 0..1."""
    splat = Gaussians(
        means=torch.tensor([[0.1, -0.2, 0.15]]),
        log_scales=torch.tensor([[0.5, 0.3, 0.2]]).log(),
        quats=torch.tensor([[0.9, 0.2, -0.3, 0.1]]),
        opacity_logits=torch.tensor([2.0]),
        sh=torch.tensor([[[1.2, -0.4, 0.6]]]),
    )
    cameras = orbit([0.0, 130.0], 20.0, distance=3.0, fov_deg=45.0, width=64, height=64)

    expected = render(splat, cameras, backend="reference", background=(0.2, 0.3, 0.4))
    drawn = render(splat.to(device), cameras, backend=backend, background=(0.2, 0.3, 0.4))
    pairs = ((drawn.color, expected.color), (drawn.alpha, expected.alpha))
    return max(float((ours.cpu() - theirs).abs().max()) for ours, theirs in pairs)


if __name__ == "__main__":
    main()

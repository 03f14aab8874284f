"""Add an objective of your own beside the diffusion prior: here, one that likes yellow.

Usage: python examples/02_own_guidance.py

A guidance is any object with the members of `vlm3d_gs.optimize.guidance.Guidance`.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

import vlm3d_gs
from vlm3d_gs.config import apply_settings
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views


class LikesYellow:
    """Draws the rendered colours towards yellow, with half of the prior's strength."""

    name = "yellow"

    def is_due(self, progress: Progress) -> bool:
        return True

    def azimuth_range_deg(self, progress: Progress) -> None:
        return None  # any camera will do

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        coverage = 1.0 if views.alpha is None else views.alpha
        difference = coverage * (views.color - views.color.new_tensor((1.0, 0.8, 0.0)))
        loss = 0.5 * difference.square().sum()
        return GuidanceOutput(difference, {"loss": loss}, relative_strength=0.5)

    def state_tensors(self) -> dict[str, Tensor]:
        return {}  # nothing that a checkpoint must hold

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        pass


def main(out: Path = Path("runs/example-02"), steps: int = 135) -> vlm3d_gs.Gaussians:
    config = vlm3d_gs.preset("mini", "a red cube")
    config = apply_settings(config, {"out": out, "train.steps": steps})
    return vlm3d_gs.generate(config, guidances=[LikesYellow()]).gaussians


if __name__ == "__main__":
    main()

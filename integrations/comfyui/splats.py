"""Between the splat type of ComfyUI's core and our Gaussians.

The core holds a batch of splats as they are drawn: scales and opacities after their activation, quaternions wxyz, in
the axes of a .ply (x right, y down, z away). Ours are raw parameters in our own world.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import Types

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.world import to_arrays, to_gaussians

FRAME = "rdf"
"""Axes of the core's splats."""
LEAST_OPACITY = 1e-6
"""What the logit of 0 and 1 is taken at, as in the core's own writer of .ply."""
LEAST_SCALE = 1e-8


def to_core(gaussians: Gaussians) -> Types.SPLAT:
    """Return Gaussians as a batch of one of the core's splats."""
    arrays = to_arrays(gaussians, FRAME)
    tensors = {name: torch.from_numpy(value)[None] for name, value in arrays.columns().items()}
    return Types.SPLAT(
        tensors["means"],
        tensors["log_scales"].exp(),
        tensors["quats"],
        tensors["opacity_logits"].sigmoid()[..., None],
        tensors["sh"],
    )


def from_core(splat: Types.SPLAT) -> Gaussians:
    """Return the first splat of a batch.

    Raises:
        InputFileError: it is empty, or a value is not finite.
    """
    end = splat.positions.shape[1] if splat.counts is None else int(splat.counts[0])
    if end == 0:
        raise InputFileError("The splat is empty.")

    # Copies, since what other nodes made under inference mode must not enter a graph of gradients.
    def column(tensor: torch.Tensor) -> np.ndarray:
        return np.array(tensor[0, :end].detach().cpu().float().numpy())

    opacity = column(splat.opacities).reshape(end).clip(LEAST_OPACITY, 1.0 - LEAST_OPACITY)
    arrays = SplatArrays(
        means=column(splat.positions),
        log_scales=np.log(column(splat.scales).clip(min=LEAST_SCALE)),
        quats=column(splat.rotations),
        opacity_logits=np.log(opacity / (1.0 - opacity)),
        sh=column(splat.sh),
        frame=FRAME,
    )
    return to_gaussians(arrays, Path("splat"))

"""Pictures to the patches that Qwen-VL vision towers read, differentiably, in plain torch.

The processors of transformers are bypassed in the loop: they work on whole messages, on the host. This file owns the
same arithmetic: clamp, bicubic resize to whole patches, normalise, cut into patches in the order of the merger.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm3d_gs.checks import expect_shape


@dataclass(frozen=True, slots=True)
class PatchLayout:
    """How a Qwen-VL vision tower wants its pictures."""

    patch_size: int = 14
    """Pixels along each side of a patch."""
    merge_size: int = 2
    """Patches along each side that become one token."""
    temporal_patch_size: int = 2
    """Frames in a patch; a still picture is repeated."""
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    """Subtracted from each channel, after scaling to 0..1."""
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    """Divides each channel."""

    @property
    def factor(self) -> int:
        """Pixels along each side of one token."""
        return self.patch_size * self.merge_size


def load_patch_layout(folder: Path) -> PatchLayout:
    """Read the layout from a model folder's `preprocessor_config.json`."""
    values = json.loads((folder / "preprocessor_config.json").read_text())
    return PatchLayout(
        values["patch_size"],
        values["merge_size"],
        values["temporal_patch_size"],
        tuple(values["image_mean"]),
        tuple(values["image_std"]),
    )


def to_patches(images: Tensor, layout: PatchLayout) -> tuple[Tensor, Tensor]:
    """Cut pictures into normalised patches.

    Args:
        images: [B, H, W, 3] float, 0 to 1 (clamped), sRGB as displayed.
        layout: sizes and normalisation of the vision tower.

    Returns:
        [B * gh * gw, 3 * temporal * patch * patch] patches, and [B, 3] int64 grids (1, gh, gw).

    Differentiable in `images`, with zero gradient where they leave 0 to 1. H and W that are not multiples of
    patch * merge are resized, bicubic and antialiased, to the nearest multiple.

    Source: Qwen2-VL (Wang et al. 2024, arXiv 2409.12191), section 2.1; checked against transformers' processor.
    """
    expect_shape("images", images, (None, None, None, 3))
    pixels = images.clamp(0.0, 1.0).movedim(-1, 1)
    height, width = (
        max(1, round(side / layout.factor)) * layout.factor for side in pixels.shape[2:]
    )
    if (height, width) != tuple(pixels.shape[2:]):
        pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True).clamp(
            0.0, 1.0
        )
    mean = torch.tensor(layout.mean, dtype=pixels.dtype, device=pixels.device)[:, None, None]
    std = torch.tensor(layout.std, dtype=pixels.dtype, device=pixels.device)[:, None, None]
    pixels = (pixels - mean) / std
    batch, p, m = pixels.shape[0], layout.patch_size, layout.merge_size
    rows, columns = height // p, width // p
    patches = pixels.reshape(batch, 3, rows // m, m, p, columns // m, m, p).permute(
        0, 2, 5, 3, 6, 1, 4, 7
    )
    patches = patches.unsqueeze(6).expand(
        -1, -1, -1, -1, -1, -1, layout.temporal_patch_size, -1, -1
    )
    grids = torch.tensor([[1, rows, columns]], device=images.device).expand(batch, 3)
    return patches.reshape(batch * rows * columns, -1), grids

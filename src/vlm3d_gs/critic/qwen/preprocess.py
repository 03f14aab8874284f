"""Images to the patches that Qwen-VL vision towers read, differentiably, in plain torch.

The processors of transformers cannot be used in the loop: they have no gradient and work on the host. This file owns
the same arithmetic: clamp, resize to whole patches within the processor's bounds, normalise, cut into patches in the
order of the merger.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm3d_gs.core.checks import expect_shape
from vlm3d_gs.core.errors import ConfigError, InputFileError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MIN_PIXELS, MAX_PIXELS = 56 * 56, 28 * 28 * 1280
"""Bounds of the Qwen2-VL processor, for models whose own file has none."""
MAX_ASPECT = 200
"""Largest ratio of the sides that the processors accept."""
BICUBIC = 3
"""Pillow's number of the resampling filter that all Qwen-VL processors use."""
IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
"""Settings of the image processor in a model folder: the classic file, and the one of newer releases."""


@dataclass(frozen=True, slots=True)
class PatchLayout:
    """How a Qwen-VL vision tower expects its images."""

    patch_size: int = 14
    """Pixels along each side of a patch."""
    merge_size: int = 2
    """Patches along each side that become one token."""
    temporal_patch_size: int = 2
    """Frames in a patch; a still image is repeated."""
    mean: tuple[float, float, float] = CLIP_MEAN
    """Subtracted from each channel, after scaling to 0..1."""
    std: tuple[float, float, float] = CLIP_STD
    """Divides each channel."""
    min_pixels: int = MIN_PIXELS
    """Images with fewer pixels are enlarged."""
    max_pixels: int = MAX_PIXELS
    """Images with more pixels are reduced."""

    @property
    def factor(self) -> int:
        """Pixels along each side of one token."""
        return self.patch_size * self.merge_size


def load_patch_layout(folder: Path) -> PatchLayout:
    """Read the layout of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL from the processor's file in its folder.

    Raises:
        ConfigError: there is no such file, or it requires a resampling filter other than bicubic.
        InputFileError: the file cannot be read.
    """
    path = next((folder / name for name in IMAGE_FILES if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"{folder} is not a Qwen-VL model: it has no {' or '.join(IMAGE_FILES)}.")

    try:
        values: dict[str, Any] = json.loads(path.read_text())
        values = values.get("image_processor", values)  # nested in newer releases
        size = values.get("size") or {}
        layout = PatchLayout(
            int(values["patch_size"]),
            int(values["merge_size"]),
            int(values["temporal_patch_size"]),
            _three(values.get("image_mean", CLIP_MEAN)),
            _three(values.get("image_std", CLIP_STD)),
            int(values.get("min_pixels") or size.get("shortest_edge") or MIN_PIXELS),
            int(values.get("max_pixels") or size.get("longest_edge") or MAX_PIXELS),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputFileError(f"{path} does not describe Qwen-VL's pictures ({error!r}).") from error

    resample = values.get("resample", BICUBIC)
    if resample not in (None, BICUBIC):
        raise ConfigError(f"{path}: resample is {resample}, but only bicubic ({BICUBIC}) is known.")

    return layout


def fitting_size(height: int, width: int, layout: PatchLayout) -> tuple[int, int]:
    """Return the (height, width) to which the processor resizes an image: whole tokens within its bounds.

    The aspect ratio is kept as far as whole tokens allow.

    Raises:
        ConfigError: one side is more than 200 times the other.

    Source: `smart_resize` of Qwen2-VL.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ConfigError(
            f"A picture of {height} x {width} px is too long: at most {MAX_ASPECT} to 1 is allowed."
        )

    factor = layout.factor
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns * factor**2 > layout.max_pixels:
        shrink = math.sqrt(height * width / layout.max_pixels)
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif rows * columns * factor**2 < layout.min_pixels:
        grow = math.sqrt(layout.min_pixels / (height * width))
        rows, columns = math.ceil(height * grow / factor), math.ceil(width * grow / factor)

    return max(1, rows) * factor, max(1, columns) * factor


def to_patches(images: Tensor, layout: PatchLayout) -> tuple[Tensor, Tensor]:
    """Cut images into normalised patches.

    Args:
        images: [B, H, W, 3] float, 0 to 1 (clamped), sRGB as displayed.
        layout: sizes and normalisation of the vision tower.

    Returns:
        [B * gh * gw, 3 * temporal * patch * patch] patches, and [B, 3] int64 grids (1, gh, gw).

    Differentiable in `images`, with zero gradient where they leave 0 to 1. Images of another size than `fitting_size`
    are resized to it, bicubic and antialiased.

    Source: Qwen2-VL (Wang et al. 2024, arXiv 2409.12191), section 2.1; tested against the processor of transformers.
    """
    grids = patch_grids(len(images), images.shape[1], images.shape[2], layout)
    return cut_patches(images, layout), grids.to(images.device, non_blocking=True)


def cut_patches(images: Tensor, layout: PatchLayout) -> Tensor:
    """Return the patches of `to_patches` alone; copies nothing from the host after the first call."""
    expect_shape("images", images, (None, None, None, 3))
    height, width = fitting_size(images.shape[1], images.shape[2], layout)
    pixels = resize(images.clamp(0.0, 1.0), (height, width)).movedim(-1, 1)
    mean, std = _normalization(layout, pixels.dtype, pixels.device)
    pixels = (pixels - mean) / std

    # The m x m patches that the merger joins to one token must be adjacent, so patches run block by block.
    batch, p, m = pixels.shape[0], layout.patch_size, layout.merge_size
    rows, columns = height // p, width // p
    blocks = pixels.reshape(batch, 3, rows // m, m, p, columns // m, m, p)
    patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7)

    # A still image is a video whose frames are all the same.
    frames = layout.temporal_patch_size
    patches = patches.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, frames, -1, -1)

    return patches.reshape(batch * rows * columns, -1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept for later calls, which may need a gradient
def _normalization(
    layout: PatchLayout, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [3, 1, 1] on a device."""
    mean, std = (
        torch.tensor(values, dtype=dtype).to(device)[:, None, None]
        for values in (layout.mean, layout.std)
    )
    return mean, std


def patch_grids(count: int, height: int, width: int, layout: PatchLayout) -> Tensor:
    """Return [count, 3] int64 numbers of patches along time, height and width of equal images; on the CPU."""
    rows, columns = (side // layout.patch_size for side in fitting_size(height, width, layout))
    return torch.tensor([[1, rows, columns]]).repeat(count, 1)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images [B, H, W, 3] in 0..1 to (height, width), bicubic and antialiased, clamped to 0..1 again.

    Differentiable. Images of that size are returned unchanged.
    """
    if tuple(images.shape[1:3]) == size:
        return images

    pixels = F.interpolate(images.movedim(-1, 1), size, mode="bicubic", antialias=True)
    return pixels.movedim(1, -1).clamp(0.0, 1.0)


def as_grid(images: Tensor, columns: int) -> Tensor:
    """Lay out images [V, H, W, 3] row by row as one image [1, rows * H, columns * W, 3], grey in unused cells.

    Differentiable.
    """
    count, height, width = images.shape[:3]
    rows = -(-count // columns)
    empty = images.new_full((rows * columns - count, height, width, 3), 0.5)
    cells = torch.cat([images, empty]).reshape(rows, columns, height, width, 3)

    return cells.permute(0, 2, 1, 3, 4).reshape(1, rows * height, columns * width, 3)


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third

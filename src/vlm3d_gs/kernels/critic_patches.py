"""Pictures to the normalised patches of a Qwen-VL vision tower, in one launch, and back in two.

The kernels are in `cuda/critic_patches.cu`.

Letters: B pictures H x W, resized to h x w; n patches a picture.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm3d_gs.kernels.library import address, launch, takes

CUBIC = -0.5
"""The parameter of the cubic that antialiased resizing uses, in Pillow and torch."""


@dataclass(frozen=True)
class Cut:
    """How a picture becomes patches."""

    size: tuple[int, int]
    """h, w: whole tokens."""
    patch: int
    """Pixels along each side of a patch."""
    merge: int
    """Patches along each side of a token."""
    frames: int
    """A still picture is repeated so often."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def critic_patches(images: Tensor, cut: Cut) -> Tensor:
    """Clamp, resize (bicubic, antialiased), normalise and cut pictures.

    Args:
        images: [B, H, W, 3].
        cut: the size, and what the vision tower wants.

    Returns:
        [B * n, 3 * frames * patch * patch], in the order of the merger.

    Differentiable in `images`, with zero gradient where they leave 0 to 1.

    Source: as `guidance.preprocess.to_patches`.
    """
    patches, _ = cut_pictures(images.contiguous(), *_plain(cut))
    return patches


def twin(images: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
    """Return patches and `inside`, see `cut_pictures`, in plain torch on any device; differentiable."""
    resized = pixels = images.clamp(0.0, 1.0).movedim(-1, 1)
    if tuple(pixels.shape[2:]) != cut.size:
        resized = F.interpolate(pixels, cut.size, mode="bicubic", antialias=True)
        pixels = resized.clamp(0.0, 1.0)
    mean, std = (_channels(values, str(images.device)).to(pixels) for values in (cut.mean, cut.std))
    rows, columns = (side // (cut.patch * cut.merge) for side in cut.size)
    cells = ((pixels - mean) / std).unflatten(3, (columns, cut.merge, cut.patch))
    cells = cells.unflatten(2, (rows, cut.merge, cut.patch)).permute(0, 2, 5, 3, 6, 1, 4, 7)
    repeated = cells.unsqueeze(6).expand(*[-1] * 6, cut.frames, -1, -1)
    bits = _channels((1.0, 2.0, 4.0), str(images.device))
    inside = (((resized >= 0.0) & (resized <= 1.0)) * bits).sum(1).to(torch.uint8)
    return repeated.reshape(_shape(len(images), cut)), inside


def twin_backward(d_patches: Tensor, images: Tensor, inside: Tensor, cut: Cut) -> Tensor:
    """Return the gradient by the pictures, in plain torch on any device."""
    rows, columns = (side // (cut.patch * cut.merge) for side in cut.size)
    shape = (-1, rows, columns, cut.merge, cut.merge, 3, cut.frames, cut.patch, cut.patch)
    pixels = d_patches.reshape(shape).sum(6).permute(0, 5, 1, 3, 6, 2, 4, 7)
    std = _channels(cut.std, str(images.device)).to(images)
    pixels = pixels.reshape(len(images), 3, *cut.size) / std
    bits = _channels((1.0, 2.0, 4.0), str(images.device)).to(torch.uint8)
    pixels = pixels * (inside[:, None] & bits != 0)
    down, along = (
        _matrix(*sides).to(images) for sides in zip(images.shape[1:3], cut.size, strict=True)
    )
    gathered = (down.T @ pixels @ along).movedim(1, -1)
    return gathered * ((images >= 0.0) & (images <= 1.0))


@torch.library.custom_op("vlm3d_gs::critic_patches", mutates_args=())
def cut_pictures(
    images: Tensor, sizes: Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return the patches, and [B, h, w] uint8 whose bits say which channels the second clamp left alone."""
    cut = _record(sizes, mean, std)
    if not takes(images):
        return twin(images, cut)
    inside = images.new_empty((len(images), *cut.size), dtype=torch.uint8)
    patches = images.new_empty(_shape(len(images), cut))
    rows, columns = (
        taps(*sides, str(images.device)) for sides in zip(images.shape[1:3], cut.size, strict=True)
    )
    task = CTask.of(images, cut, rows, columns)
    task.patches, task.inside = address(patches), address(inside)
    launch("critic_patches", images.device, task)
    return patches, inside


@cut_pictures.register_fake
def _fake(
    images: Tensor, sizes: Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor]:
    cut = _record(sizes, mean, std)
    inside = images.new_empty((len(images), *cut.size), dtype=torch.uint8)
    return images.new_empty(_shape(len(images), cut)), inside


@torch.library.custom_op("vlm3d_gs::critic_patches_backward", mutates_args=())
def gather_pictures(
    d_patches: Tensor,
    images: Tensor,
    inside: Tensor,
    sizes: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Return the gradient by the pictures [B, H, W, 3]."""
    cut = _record(sizes, mean, std)
    if not takes(d_patches, images):
        return twin_backward(d_patches, images, inside, cut)
    d_images = torch.empty_like(images)
    rows, columns = (
        transposed_taps(*sides, str(images.device))
        for sides in zip(images.shape[1:3], cut.size, strict=True)
    )
    d_pixels = images.new_empty(len(images), *cut.size, 3)
    task = CTask.of(images, cut, rows, columns)
    task.inside, task.d_patches = address(inside), address(d_patches)
    task.d_pixels, task.d_images = address(d_pixels), address(d_images)
    launch("critic_patches_backward", images.device, task)
    return d_images


@gather_pictures.register_fake
def _fake_backward(d_patches: Tensor, images: Tensor, *_: object) -> Tensor:
    return torch.empty_like(images)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    images, *ctx.cut = inputs
    ctx.save_for_backward(images, output[1])


def _backward(ctx: Any, d_patches: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    images, inside = ctx.saved_tensors
    return gather_pictures(d_patches.contiguous(), images, inside, *ctx.cut), None, None, None


cut_pictures.register_autograd(_backward, setup_context=_keep)


@lru_cache(maxsize=16)
def _channels(values: tuple[float, float, float], device: str) -> Tensor:
    """Return one number a channel, [3, 1, 1]."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


@dataclass(frozen=True, eq=False)
class Taps:
    """Which pixels each pixel of a side is made of."""

    first: Tensor
    """[n] int32, the first one read."""
    count: Tensor
    """[n] int32, how many."""
    weights: Tensor
    """[n, most] float32, 0 beyond the count."""


@lru_cache(maxsize=64)
def taps(size: int, out: int, device: str) -> Taps:
    """Return the table of a side resized from `size` to `out` pixels."""
    return _table(_matrix(size, out), device)


@lru_cache(maxsize=64)
def transposed_taps(size: int, out: int, device: str) -> Taps:
    """Return which pixels of the resized side read each pixel, and how much of it."""
    return _table(_matrix(size, out).T, device)


def _matrix(size: int, out: int) -> Tensor:
    """Return [out, size] float64: a side's resize, bicubic and antialiased; the identity for the same size.

    Source: Keys 1981 (cubic convolution), widened by the scale where the side shrinks, as Pillow does.
    """
    if size == out:
        return torch.eye(size, dtype=torch.float64)
    scale = size / out
    wide = max(scale, 1.0)
    center = scale * (torch.arange(out, dtype=torch.float64)[:, None] + 0.5)
    pixel = torch.arange(size)[None]
    x = (pixel + 0.5 - center).abs() / wide
    near = ((CUBIC + 2.0) * x - (CUBIC + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * CUBIC
    weights = torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))
    begins, ends = (center - 2.0 * wide + 0.5).long(), (center + 2.0 * wide + 0.5).long()
    weights = torch.where((pixel >= begins) & (pixel < ends), weights, 0.0)
    return weights / weights.sum(1, keepdim=True)


def _table(matrix: Tensor, device: str) -> Taps:
    used = matrix != 0.0
    places = torch.arange(matrix.shape[1])
    last = torch.where(used, places, -1).amax(1)
    first = torch.where(used, places, matrix.shape[1]).amin(1).clamp_max(matrix.shape[1] - 1)
    count = (last - first + 1).clamp_min(0)
    columns = first[:, None] + torch.arange(int(count.max()))
    weights = matrix.gather(1, columns.clamp_max(matrix.shape[1] - 1))
    weights = torch.where(columns <= last[:, None], weights, 0.0).float().contiguous()
    return Taps(first.int().to(device), count.int().to(device), weights.to(device))


def _plain(cut: Cut) -> tuple[list[int], list[float], list[float]]:
    """Return a cut as an operator takes it."""
    return [*cut.size, cut.patch, cut.merge, cut.frames], list(cut.mean), list(cut.std)


def _record(sizes: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> Cut:
    """Undo `_plain`."""
    height, width, patch, merge, frames = sizes
    return Cut(
        (height, width), patch, merge, frames, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
    )


def _shape(batch: int, cut: Cut) -> tuple[int, int]:
    area = cut.patch * cut.patch
    return batch * (cut.size[0] * cut.size[1] // area), 3 * cut.frames * area


class CTaps(ctypes.Structure):
    """`Taps` of `cuda/critic_patches.cuh`."""

    _fields_ = (
        ("first", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("taps", ctypes.c_int32),
    )

    @classmethod
    def of(cls, table: Taps) -> CTaps:
        """Point to these tensors."""
        return cls(*map(address, (table.first, table.count, table.weights)), table.weights.shape[1])


class CTask(ctypes.Structure):
    """`PatchTask` of `cuda/critic_patches.cuh`, its `Cut` spread out."""

    _fields_ = (
        ("sizes", ctypes.c_int32 * 8),
        ("mean", ctypes.c_float * 3),
        ("std", ctypes.c_float * 3),
        ("rows", CTaps),
        ("columns", CTaps),
        ("images", ctypes.c_void_p),
        ("patches", ctypes.c_void_p),
        ("inside", ctypes.c_void_p),
        ("d_patches", ctypes.c_void_p),
        ("d_pixels", ctypes.c_void_p),
        ("d_images", ctypes.c_void_p),
    )

    @classmethod
    def of(cls, images: Tensor, cut: Cut, rows: Taps, columns: Taps) -> CTask:
        """Point to the pictures and tables; what a pass reads and writes beside them is set by the caller."""
        sizes = (*images.shape[:3], *cut.size, cut.patch, cut.merge, cut.frames)
        three = ctypes.c_float * 3
        return cls(
            (ctypes.c_int32 * 8)(*sizes),
            three(*cut.mean),
            three(*cut.std),
            CTaps.of(rows),
            CTaps.of(columns),
            address(images),
        )

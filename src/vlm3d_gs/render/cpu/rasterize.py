"""The compiled rasteriser for CPUs: torch on the outside, Numba kernels inside.

Two autograd functions, projection and blending, joined by the projected centres, so that
densification can read their gradient. float32 throughout. The order of sums depends only on the
sizes: the same input gives the same bytes with any number of threads. Letters: C views, N Gaussians.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.errors import DeviceError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render.conventions import FRUSTUM_MARGIN
from vlm3d_gs.render.cpu import blend, blend_backward, project, project_backward, tiles
from vlm3d_gs.render.cpu.threads import run_tasks
from vlm3d_gs.render.result import Rendering

Floats = np.ndarray[Any, np.dtype[np.float32]]

_TASKS = 16
"""Target number of blending tasks, which sets the number of bands per view. Part of the summation order."""
_PAIRS = 8_000_000
"""Views times Gaussians drawn at once where no gradient is wanted; a pair takes up to 120 bytes."""
_ENTRIES = 2**27
"""Length of all tiles' lists at once where no gradient is wanted, 4 bytes each; a row of tiles may need more."""


def render_cpu(
    gaussians: Gaussians, cameras: Cameras, background: Tensor, sh_degree: int
) -> Rendering:
    """Render all views with the compiled kernels.

    Args:
        gaussians: N Gaussians on the CPU; float64 is converted to float32 and the result back.
        cameras: C cameras.
        background: [C, 3] colours.
        sh_degree: highest degree used, at most that of the Gaussians.

    Returns:
        The rendering. Left out is what float32 cannot hold: Gaussians whose projected variance exceeds
        1e30 px^2, or whose depth, a channel of whose colour or an intermediate value exceeds 1e35.

    Raises:
        DeviceError: the Gaussians are not on the CPU.

    Differentiable in every parameter; a gradient too large for float32 is zero. The result has the same
    bytes in every run, with any number of threads.
    """
    if gaussians.device.type != "cpu":
        raise DeviceError(
            f"The cpu renderer needs Gaussians on the CPU, got {gaussians.device}. "
            "Move them with .to('cpu') or use backend='gsplat'."
        )

    rows, backdrop = camera_rows(cameras), background.detach().to(torch.float32).contiguous()
    parameters = [value.float().contiguous() for value in gaussians.parameters().values()]
    sizes: tuple[int, ...] = (cameras.width, cameras.height, sh_degree)
    if gaussians.antialiased:
        sizes = (*sizes, 1)

    # Memory grows with views times Gaussians. A backward pass needs all of it, a picture alone does not.
    chunk = max(1, len(rows))
    if not (torch.is_grad_enabled() and any(value.requires_grad for value in parameters)):
        chunk = max(1, min(chunk, _PAIRS // max(1, len(gaussians))))
    parts = [
        _draw(parameters, rows[start : start + chunk], backdrop[start : start + chunk], sizes)
        for start in range(0, max(1, len(rows)), chunk)
    ]

    joined = parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))
    color, alpha, depth, radii, means2d = joined
    dtype = gaussians.dtype
    return Rendering(
        color.to(dtype),
        alpha[..., None].to(dtype),
        depth[..., None].to(dtype),
        radii.to(dtype),
        means2d,
    )


def _draw(
    parameters: Sequence[Tensor],
    views: np.ndarray[Any, np.dtype[np.float32]],
    background: Tensor,
    sizes: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Return colour, alpha, depth, radii and centres of some views, float32."""
    means2d, shapes, radii = _Projection.apply(*parameters, views, sizes)
    if means2d.requires_grad:
        means2d.retain_grad()
    color, alpha, depth = _Blending.apply(means2d, shapes, radii, background, sizes[:2])
    return color, alpha, depth, radii, means2d


def camera_rows(cameras: Cameras) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the cameras as the [C, 24] float32 rows that the kernels read (see `project`)."""
    rows = torch.zeros(len(cameras), project.CAMERA_COLUMNS, dtype=torch.float64)
    views, Ks = (
        cameras.viewmats.detach().to("cpu", torch.float64),
        cameras.Ks.detach().to("cpu", torch.float64),
    )
    rotation, translation = views[:, :3, :3], views[:, :3, 3]
    focal, principal = Ks.diagonal(dim1=-2, dim2=-1)[:, :2], Ks[:, :2, 2]
    size = torch.tensor([cameras.width, cameras.height], dtype=torch.float64)
    margin = FRUSTUM_MARGIN * 0.5 * size / focal

    rows[:, 0:9] = rotation.flatten(1)
    rows[:, 9:12] = translation
    rows[:, 12:14], rows[:, 14:16] = focal, principal
    rows[:, 16:20:2], rows[:, 17:20:2] = (
        -(principal / focal + margin),
        (size - principal) / focal + margin,
    )
    rows[:, 20:23] = -(rotation.mT @ translation[:, :, None])[:, :, 0]
    return rows.float().numpy()


def band_rows(views: int, height: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the first tile row of each band, and the end; depends only on the sizes."""
    tile_rows = -(-height // tiles.TILE)
    number = max(1, min(tile_rows, _TASKS // max(views, 1)))
    return np.linspace(0, tile_rows, number + 1).round().astype(np.int64)


class _Projection(torch.autograd.Function):
    """Parameters to centres [C, N, 2], shapes [C, N, 8] and radii [C, N]."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        log_scales: Tensor,
        quats: Tensor,
        opacity_logits: Tensor,
        sh: Tensor,
        cameras: np.ndarray[Any, np.dtype[np.float32]],
        sizes: tuple[int, ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the projection kernel."""
        views, count = len(cameras), len(means)
        means2d, shapes = _zeros(views, count, 2), _zeros(views, count, 8)
        radii = _zeros(views, count)
        inputs = [
            value.detach().numpy() for value in (means, log_scales, quats, opacity_logits, sh)
        ]
        outputs = [value.numpy() for value in (means2d, shapes, radii)]

        tasks = -(-count // project.GAUSSIANS_PER_TASK)
        kernel = project.project_forward
        if len(sizes) == 4:
            kernel = project.project_forward_antialiased
        run_tasks(kernel, tasks, *inputs, cameras, sizes, *outputs)

        ctx.save_for_backward(means, log_scales, quats, opacity_logits, sh, shapes, radii)
        ctx.cameras, ctx.mode = cameras, sizes[2:]
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return means2d, shapes, radii

    @staticmethod
    def backward(ctx: Any, d_means2d: Tensor | None, d_shapes: Tensor | None, _: Any) -> Any:
        """Run the derivative of the projection."""
        *parameters, shapes, radii = ctx.saved_tensors
        views, count = radii.shape
        d_means2d = _zeros(views, count, 2) if d_means2d is None else d_means2d.contiguous()
        d_shapes = _zeros(views, count, 8) if d_shapes is None else d_shapes.contiguous()
        gradients = [_zeros(*value.shape) for value in parameters]
        written = tuple(value.numpy() for value in gradients)
        slopes = (d_means2d.detach().numpy(), d_shapes.detach().numpy())

        kernel = project_backward.project_backward
        if len(ctx.mode) == 2:
            kernel = project_backward.project_backward_antialiased
        run_tasks(
            kernel,
            -(-count // project.GAUSSIANS_PER_TASK),
            *(value.detach().numpy() for value in parameters),
            ctx.cameras,
            ctx.mode,
            *(value.detach().numpy() for value in (shapes, radii)),
            *slopes,
            written,
        )
        zero_overflow(written, slopes, (count,))
        return *gradients, None, None


class _Blending(torch.autograd.Function):
    """Centres and shapes to colour [C, H, W, 3], alpha [C, H, W] and depth [C, H, W]."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        shapes: Tensor,
        radii: Tensor,
        background: Tensor,
        size: tuple[int, int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sort by depth, list each tile's Gaussians, and blend."""
        (width, height), (views, count) = size, radii.shape
        order, counts = np.empty((views, count), np.int32), np.zeros(views, np.int64)
        packed = np.empty((views, count, tiles.PACKED_COLUMNS), np.float32)
        inputs = [value.detach().numpy() for value in (means2d, shapes, radii)]
        reach = np.empty((views, count, 2), np.int32)
        run_tasks(tiles.order_views, views, *inputs, height, order, counts, packed, reach)

        # Count each tile's list first, then allocate all of them at once and write them.
        bands = band_rows(views, height)
        columns = -(-width // tiles.TILE)
        lengths = np.zeros((views, bands[-1] * columns), np.int64)
        none = np.empty(0, np.int32)
        run_tasks(
            tiles.list_tiles, views * (len(bands) - 1), packed, reach, counts, bands, width, lengths, none
        )  # fmt: skip

        color = torch.empty(views, height, width, 3)
        alpha, depth = torch.empty(views, height, width), torch.empty(views, height, width)
        pictures = (color.numpy(), alpha.numpy(), depth.numpy())

        # All at once where a backward pass follows, else as many rows of tiles as memory is meant for.
        most = None if any(ctx.needs_input_grad) else _ENTRIES
        for part in split_bands(bands, lengths, columns, most):
            ends = list_ends(lengths, (part[0] * columns, part[-1] * columns))
            entries = np.empty(ends[-1, -1] if views else 0, np.int32)
            cursors, tasks = ends[:, :-1].copy(), views * (len(part) - 1)
            if len(entries) > 0:
                lists = (packed, reach, counts, part, width, cursors, entries)
                run_tasks(tiles.list_tiles, tasks, *lists)
            drawn = (packed, part, ends, entries, background.numpy(), *pictures)
            run_tasks(blend.blend_forward, tasks, *drawn)

        ctx.save_for_backward(color, alpha, depth, background)
        ctx.lists = (packed, reach, order, counts, bands, ends, entries)
        return color, alpha, depth

    @staticmethod
    def backward(ctx: Any, d_color: Tensor, d_alpha: Tensor, d_depth: Tensor) -> Any:
        """Run the derivative of the blending, and add up the bands."""
        color, alpha, depth, background = ctx.saved_tensors
        packed, reach, order, counts, bands, ends, entries = ctx.lists
        views, count = order.shape
        number = len(bands) - 1

        sums = np.zeros((views, number, count, blend_backward.GRADIENT_COLUMNS), np.float32)
        pictures = tuple(value.detach().numpy() for value in (color, alpha, depth))
        slopes = tuple(value.detach().contiguous().numpy() for value in (d_color, d_alpha, d_depth))
        run_tasks(
            blend_backward.blend_backward, views * number, packed, bands, ends, entries,
            background.numpy(), pictures, slopes, sums,
        )  # fmt: skip

        d_means2d, d_shapes = _zeros(views, count, 2), _zeros(views, count, 8)
        gradients = (d_means2d.numpy(), d_shapes.numpy())
        run_tasks(
            blend_backward.reduce_bands, views, packed, reach, order, counts, bands, sums, *gradients
        )  # fmt: skip
        zero_overflow(gradients, slopes, (views, count))
        return d_means2d, d_shapes, None, None, None


def split_bands(
    bands: np.ndarray[Any, np.dtype[np.int64]],
    lengths: np.ndarray[Any, np.dtype[np.int64]],
    columns: int,
    most: int | None,
) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the bands in groups whose lists together have at most `most` entries, or one row of tiles.

    Args:
        bands: [number + 1] first tile row of each, and the end.
        lengths: [C, tiles] of the lists.
        columns: tiles in a row.
        most: None for one group.
    """
    rows = lengths.reshape(-1, bands[-1], columns).sum((0, 2))
    if most is None or rows.sum() <= most:
        return [bands]

    groups = [[0]]
    total = 0
    for row, entries in enumerate(rows):
        if total and total + entries > most:
            groups.append([row])
            total = 0
        groups[-1].append(row + 1)
        total += entries
    return [np.array(group, np.int64) for group in groups]


def list_ends(
    counts: np.ndarray[Any, np.dtype[np.int64]], drawn: tuple[int, int] | None = None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return [C, tiles + 1] positions where each tile's list starts and ends.

    Args:
        counts: [C, tiles] lengths of the lists.
        drawn: first tile that has a list, and the end; those of the others are empty. None is all.
    """
    views, tiles = counts.shape
    chosen = counts
    if drawn is not None:
        chosen = np.zeros_like(counts)
        chosen[:, drawn[0] : drawn[1]] = counts[:, drawn[0] : drawn[1]]
    running = np.zeros(views * tiles + 1, np.int64)
    np.cumsum(chosen.reshape(-1), out=running[1:])
    starts = np.arange(views)[:, None] * tiles + np.arange(tiles + 1)[None]
    return np.ascontiguousarray(running[starts])


def zero_overflow(
    gradients: Sequence[Floats], slopes: Sequence[Floats], rows: tuple[int, ...]
) -> None:
    """Set a Gaussian's gradients to zero, in place, where float32 cannot hold them.

    Only if all slopes are finite: NaN and infinity that come in go out, for whoever looks for them.

    Args:
        gradients: arrays whose first dimensions are `rows`.
        slopes: the gradients that they were computed from.
        rows: the dimensions that number the Gaussians.
    """
    # A sum is the fastest look; it may overflow itself, so what it rejects gets a second one.
    with np.errstate(over="ignore", invalid="ignore"):
        if all(np.isfinite(value.sum()) for value in gradients):
            return
    if not all(np.isfinite(value).all() for value in slopes):
        return

    finite = np.ones(rows, bool)
    for value in gradients:
        finite &= np.isfinite(value).reshape(*rows, -1).all(-1)
    for value in gradients:
        value[~finite] = 0.0


def _zeros(*size: int) -> Tensor:
    """Return float32 zeros without waking torch's threads, which would spin on our cores while they wait."""
    return torch.from_numpy(np.zeros(size, np.float32))

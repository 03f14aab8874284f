"""What rendering a scene costs at least: operations and bytes that the picture's definition needs, at measured rates.

A pair is a Gaussian and a pixel that it changes: its alpha there is not below the floor, and the pixel has not ended.
No renderer can do without their arithmetic, counted here operation by operation, an exponential as the polynomial that
it is (15), a multiplication and the addition behind it as two. What a renderer does beyond that, to find the pairs and
to sort, is what its ratio to the floor tells.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from harness import wait_for_device

from vlm3d_gs.app.bench import matrix_rate
from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render.conventions import ALPHA_CAP, ALPHA_FLOOR, TRANSMITTANCE_STOP
from vlm3d_gs.render.reference import project

PAIR_FORWARD = 39
"""Operations of a pair: offset and whitening 6, exponent 5, exponential 15, cap and transmittance 4, five sums 9."""
PAIR_BACKWARD = 63
"""The same without the sums, 30, as nothing is kept; slope along the pair 8, what is behind 6, ten sums 19."""
PROJECTION_FORWARD = 190
"""Of a Gaussian in a view: camera axes 18, Jacobian and image of the axes 60, covariance, its inverse 40, rest 72."""
PROJECTION_BACKWARD = 360
"""The same done again, and its derivative."""
GAUSSIAN_BYTES = 4 * 14
"""Position, scales, rotation, opacity and colour of degree 0, float32."""
PIXEL_BYTES = 4 * 5
"""Colour, alpha and depth."""
COPY_BYTES = 2**28
REPEATS = 5


def pairs(gaussians: Gaussians, cameras: Cameras) -> int:
    """Return how many pairs of all views there are, by walking through each view's Gaussians from front to back."""
    scene = gaussians.detach().to(dtype=torch.float64)
    projected = project(scene.to("cpu"), cameras.to(torch.device("cpu"), torch.float64))
    means2d, conics, depths, radii = (value.numpy() for value in projected)
    opacities, found = scene.opacities.cpu().numpy(), 0
    for view in range(len(cameras)):
        through = np.ones((cameras.height, cameras.width))
        for n in np.argsort(depths[view], kind="stable"):
            if radii[view, n] <= 0.0:
                continue
            (x, y), reach = means2d[view, n], radii[view, n]
            left, right = max(0, int(x - reach)), min(cameras.width, int(x + reach) + 2)
            top, bottom = max(0, int(y - reach)), min(cameras.height, int(y + reach) + 2)
            dx = np.arange(left, right) + 0.5 - x
            dy = (np.arange(top, bottom) + 0.5 - y)[:, None]
            (a, b), (_, c) = conics[view, n]
            alpha = opacities[n] * np.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
            alpha = np.minimum(ALPHA_CAP, alpha)
            window = through[top:bottom, left:right]
            after = window * (1.0 - alpha)
            reached = (alpha >= ALPHA_FLOOR) & (window > 0.0)
            kept = reached & (after > TRANSMITTANCE_STOP)
            window[kept], window[reached & ~kept] = after[kept], 0.0
            found += int(kept.sum())
    return found


def copy_rate(device: torch.device) -> float:
    """Return the bytes a second that a large copy reads and writes, the best of a few."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(REPEATS):
        wait_for_device()
        began = time.perf_counter()
        target.copy_(source)
        wait_for_device()
        best = min(best, time.perf_counter() - began)
    return 2.0 * COPY_BYTES / best


def rates(device: torch.device) -> tuple[float, float]:
    """Return this machine's operations a second, of float32 matrix products, and bytes a second."""
    return matrix_rate(device, (torch.float32,)), copy_rate(device)


def floor_ms(
    gaussians: Gaussians, cameras: Cameras, found: int, rate: tuple[float, float]
) -> tuple[float, float]:
    """Return the least time of the forward pass, and of forward and backward, in ms: operations or bytes, what is more.

    Args:
        gaussians: the scene.
        cameras: its views.
        found: its `pairs`.
        rate: the machine's `rates`.
    """
    seen = len(gaussians) * len(cameras)
    pixels = len(cameras) * cameras.height * cameras.width
    forward = found * PAIR_FORWARD + seen * PROJECTION_FORWARD
    both = forward + found * PAIR_BACKWARD + seen * PROJECTION_BACKWARD
    read = len(gaussians) * GAUSSIAN_BYTES + pixels * PIXEL_BYTES
    return (
        1e3 * max(forward / rate[0], read / rate[1]),
        1e3 * max(both / rate[0], 3 * read / rate[1]),
    )

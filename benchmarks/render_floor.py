"""The least that rendering a scene costs: operations and bytes that the picture's definition needs, at measured rates.

A pair is a Gaussian and a pixel that it changes: its alpha there is not below the floor, and the pixel has not ended.
No renderer can avoid their arithmetic, which is counted here operation by operation: an exponential as the polynomial
that it is (15), a multiplication and the addition after it as two. The ratio to the floor shows what a renderer does
beyond that, to find the pairs and to sort.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from harness import wait_for_device

from vlm3d_gs.app.floors import matrix_rate
from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render.conventions import ALPHA_CAP, ALPHA_FLOOR, TRANSMITTANCE_STOP
from vlm3d_gs.render.reference import project

PAIR_FORWARD = 39
"""Operations per pair: offset and whitening 6, exponent 5, exponential 15, cap and transmittance 4, five sums 9."""
PAIR_BACKWARD = 63
"""The same again without the sums, 30, as nothing is stored; gradient of the pair 8, light behind it 6, ten sums 19."""
PROJECTION_FORWARD = 190
"""Per Gaussian and view: camera axes 18, Jacobian and image of the axes 60, covariance, its inverse 40, rest 72."""
PROJECTION_BACKWARD = 360
"""The same again, and its derivative."""
GAUSSIAN_BYTES = 4 * 14
"""Position, scales, rotation, opacity and colour of degree 0, float32."""
PIXEL_BYTES = 4 * 5
"""Colour, alpha and depth."""
COPY_BYTES = 2**28
REPEATS = 5


def pairs(gaussians: Gaussians, cameras: Cameras) -> int:
    """Return the number of pairs in all views, by going through each view's Gaussians from front to back."""
    scene = gaussians.detach().to(dtype=torch.float64)
    projected = project(scene.to("cpu"), cameras.to(torch.device("cpu"), torch.float64))
    means2d, conics, depths, radii, factors = (value.numpy() for value in projected)
    opacities, n_pairs = scene.opacities.cpu().numpy() * factors, 0

    for view in range(len(cameras)):
        transmittance = np.ones((cameras.height, cameras.width))
        for n in np.argsort(depths[view], kind="stable"):
            if radii[view, n] <= 0.0:
                continue

            # the window outside which alpha is below the floor
            (x, y), reach = means2d[view, n], radii[view, n]
            left, right = max(0, int(x - reach)), min(cameras.width, int(x + reach) + 2)
            top, bottom = max(0, int(y - reach)), min(cameras.height, int(y + reach) + 2)
            dx = np.arange(left, right) + 0.5 - x
            dy = (np.arange(top, bottom) + 0.5 - y)[:, None]
            (a, b), (_, c) = conics[view, n]
            alpha = opacities[view, n] * np.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
            alpha = np.minimum(ALPHA_CAP, alpha)

            window = transmittance[top:bottom, left:right]
            after = window * (1.0 - alpha)
            reached = (alpha >= ALPHA_FLOOR) & (window > 0.0)
            kept = reached & (after > TRANSMITTANCE_STOP)
            window[kept], window[reached & ~kept] = after[kept], 0.0
            n_pairs += int(kept.sum())
    return n_pairs


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
    """Return this machine's float32 operations a second (of matrix products) and bytes a second (of a copy)."""
    return matrix_rate(device, (torch.float32,)), copy_rate(device)


def floor_ms(
    gaussians: Gaussians, cameras: Cameras, n_pairs: int, rate: tuple[float, float]
) -> tuple[float, float]:
    """Return the least ms of the forward pass, and of forward and backward: of operations or bytes, the larger.

    Args:
        gaussians: the scene.
        cameras: its views.
        n_pairs: its `pairs`.
        rate: the machine's `rates`.
    """
    projected = len(gaussians) * len(cameras)
    pixels = len(cameras) * cameras.height * cameras.width
    forward = n_pairs * PAIR_FORWARD + projected * PROJECTION_FORWARD
    both = forward + n_pairs * PAIR_BACKWARD + projected * PROJECTION_BACKWARD
    moved = len(gaussians) * GAUSSIAN_BYTES + pixels * PIXEL_BYTES
    return (
        1e3 * max(forward / rate[0], moved / rate[1]),
        1e3 * max(both / rate[0], 3 * moved / rate[1]),
    )

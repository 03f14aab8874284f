"""Comparison of gradients as vectors and element by element."""

from __future__ import annotations

import torch
from torch import Tensor

REL_L2, COSINE, ELEMENT = 1e-3, 0.9999, 2e-3
"""Allowed relative L2 distance, least cosine, and largest single error as a share of the largest element."""


def assert_grad_close(name: str, actual: Tensor, expected: Tensor, scale: float = 0.0) -> None:
    """Fail unless two gradients agree in direction, length, and in every element.

    Args:
        name: for the message.
        actual: the gradient under test.
        expected: the witness.
        scale: size of all the loss's gradients; what is below a millionth of it counts as zero in both.
    """
    assert actual.shape == expected.shape, (
        f"{name}: {list(actual.shape)} against {list(expected.shape)}"
    )
    assert bool(torch.isfinite(actual).all()), f"{name}: not finite"
    a, e = actual.double().flatten(), expected.double().flatten()
    floor = 1e-6 * scale
    length = float(e.norm())
    if length <= floor:
        assert float(a.norm()) <= 2.0 * floor, (
            f"{name}: {float(a.norm()):.3e} where {length:.3e} is expected"
        )
        return
    distance = float((a - e).norm()) / length
    assert distance < REL_L2, f"{name}: relative L2 distance {distance:.2e}"
    cosine = float(a @ e) / (float(a.norm()) * length)
    assert cosine > COSINE, f"{name}: cosine {cosine:.6f}"
    worst = float((a - e).abs().max()) / float(e.abs().max())
    assert worst < ELEMENT, f"{name}: largest error is {worst:.2e} of the largest element"

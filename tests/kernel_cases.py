"""Inputs for the kernel tests, on the host and on a GPU alike."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm3d_gs.kernels import ParameterState, ScreenStats

WIDTHS = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (), "sh": (1, 3)}


def scene_step(
    n: int, rest: int, views: int, generator: torch.Generator, device: str = "cpu"
) -> tuple[list[ParameterState], ScreenStats]:
    """Return the tensors of n Gaussians in the middle of a run, `rest` higher harmonics, and a third not seen."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    shapes = [(n, *width) for width in WIDTHS.values()] + [(n, rest, 3)]
    tensors = [
        ParameterState(
            draw(*s), draw(*s), 0.1 * draw(*s), 0.1 * draw(*s).square(), 10.0 ** -(1 + k % 3), 7 + k
        )
        for k, s in enumerate(shapes)
    ]
    radii = 10.0 * (draw(views, n).abs() - 0.8).clamp_min(0.0)
    radii[:, ::3] = 0.0
    return tensors, ScreenStats(
        draw(views, n, 2), radii, draw(n).abs(), torch.full((n,), 2.0).to(device)
    )


def copied(
    tensors: list[ParameterState], screen: ScreenStats
) -> tuple[list[ParameterState], ScreenStats]:
    """Return copies, so that two implementations can each change their own."""
    own = [
        ParameterState(
            *(t.clone() for t in (m.value, m.gradient, m.exp_avg, m.exp_avg_sq)), m.lr, m.step
        )
        for m in tensors
    ]
    kept = (screen.gradient, screen.radii, screen.total, screen.count)
    return own, ScreenStats(*(tensor.clone() for tensor in kept))


def assert_same_step(
    ours: tuple[list[ParameterState], ScreenStats],
    expected: tuple[list[ParameterState], ScreenStats],
) -> None:
    """Fail unless both changed their tensors to the same values, within the rounding of float32."""
    for mine, theirs in zip(ours[0], expected[0], strict=True):
        for name in ("value", "exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(
                getattr(mine, name), getattr(theirs, name), rtol=2e-6, atol=1e-6
            )
    torch.testing.assert_close(ours[1].total, expected[1].total, rtol=1e-6, atol=1e-6)
    assert torch.equal(ours[1].count, expected[1].count)


def faint_and_opaque(
    n: int, generator: torch.Generator, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return means, log scales, quaternions (one of them zero), opacity logits and noise of n Gaussians."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    quats = draw(n, 4)
    quats[0] = 0.0
    tensors = (draw(n, 3), 0.5 * draw(n, 3) - 1.0, quats, 2.0 * draw(n) - 2.0, draw(n, 3))
    means, log_scales, quats, logits, noise = (tensor.to(device) for tensor in tensors)
    return means, log_scales, quats, logits, noise

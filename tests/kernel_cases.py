"""Inputs for the tests of the own kernels, on the host and on a GPU alike."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm3d_gs.kernels import Cut, Moved, Screen
from vlm3d_gs.kernels.distillation import Guided, Levels

WIDTHS = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (), "sh": (1, 3)}


def scene_step(
    n: int, rest: int, views: int, generator: torch.Generator, device: str = "cpu"
) -> tuple[list[Moved], Screen]:
    """Return the tensors of n Gaussians in the middle of a run, `rest` higher harmonics, and a third not seen."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    shapes = [(n, *width) for width in WIDTHS.values()] + [(n, rest, 3)]
    tensors = [
        Moved(
            draw(*s), draw(*s), 0.1 * draw(*s), 0.1 * draw(*s).square(), 10.0 ** -(1 + k % 3), 7 + k
        )
        for k, s in enumerate(shapes)
    ]
    radii = 10.0 * (draw(views, n).abs() - 0.8).clamp_min(0.0)
    radii[:, ::3] = 0.0
    return tensors, Screen(
        draw(views, n, 2), radii, draw(n).abs(), torch.full((n,), 2.0).to(device)
    )


def copied(tensors: list[Moved], screen: Screen) -> tuple[list[Moved], Screen]:
    """Return the same with tensors of their own, so that two implementations may change them."""
    own = [
        Moved(*(t.clone() for t in (m.value, m.gradient, m.mean, m.square)), m.rate, m.step)
        for m in tensors
    ]
    kept = (screen.gradient, screen.radii, screen.total, screen.count)
    return own, Screen(*(tensor.clone() for tensor in kept))


def assert_same_step(
    ours: tuple[list[Moved], Screen], expected: tuple[list[Moved], Screen]
) -> None:
    """Fail unless both changed their tensors to the same values, within the rounding of float32."""
    for mine, theirs in zip(ours[0], expected[0], strict=True):
        for name in ("value", "mean", "square"):
            torch.testing.assert_close(
                getattr(mine, name), getattr(theirs, name), rtol=2e-6, atol=1e-6
            )
    torch.testing.assert_close(ours[1].total, expected[1].total, rtol=1e-6, atol=1e-6)
    assert torch.equal(ours[1].count, expected[1].count)


def answers(
    batch: int, side: int, generator: torch.Generator, device: str = "cpu"
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Levels]:
    """Return latents, noisy latents, two answers of a network to them, and the levels, one timestep a latent."""
    signal = torch.linspace(0.999, 0.05, 100)
    index = torch.randint(0, 100, (batch,), generator=generator)
    tensors = [torch.randn(batch, 4, side, side, generator=generator).to(device) for _ in range(4)]
    latents, noisy, without, given = tensors
    levels = Levels(signal.to(device), (1.0 - signal**2).sqrt().to(device), index.to(device))
    return (latents, noisy, without, without + 0.1 * given), levels


GUIDED = [
    Guided("epsilon", 50.0, 0.5, 4),
    Guided("v_prediction", 7.5, 1.0, 2),
    Guided("sample", 7.5, 0.3, 1),
    Guided("flow_prediction", 1.0, 0.0, 4),
]


CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
CUTS = {
    "a little smaller": ((33, 40), Cut((28, 36), 2, 2, 2, **CLIP)),
    "the same size": ((16, 24), Cut((16, 24), 4, 2, 1, **CLIP)),
    "enlarged": ((9, 13), Cut((28, 28), 7, 2, 2, **CLIP)),
    "much smaller": ((70, 64), Cut((8, 16), 2, 4, 3, **CLIP)),
}
"""Height and width of pictures, and how they are cut."""


def pictures(
    batch: int, size: tuple[int, int], generator: torch.Generator, device: str = "cpu"
) -> Tensor:
    """Return [batch, H, W, 3] pictures that leave 0 to 1 here and there, with hard edges that overshoot."""
    drawn = torch.rand(batch, *size, 3, generator=generator)
    return torch.where(drawn > 0.7, 1.1 * drawn.round(), 1.3 * drawn - 0.1).to(device)


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

"""Augmentation: small, alike in all views, differentiable, repeatable."""

from __future__ import annotations

import torch

from vlm3d_gs.config import AugmentConfig
from vlm3d_gs.critic.augment import augment, reframe

FULL = AugmentConfig(crop=0.2, color=0.2, resolution=0.5)


def test_nothing_on_is_nothing_done(generator: torch.Generator) -> None:
    images = torch.rand(2, 16, 16, 3, generator=generator)
    assert augment(images, AugmentConfig(), generator) is images


def test_equal_views_stay_equal_and_the_draw_repeats() -> None:
    images = torch.rand(1, 16, 16, 3).expand(3, -1, -1, -1)
    first, second = (augment(images, FULL, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first[0], first[2])
    assert not torch.allclose(first, images)
    assert 0.0 <= float(first.min())
    assert float(first.max()) <= 1.0


def test_it_draws_as_many_numbers_whatever_is_on() -> None:
    images = torch.rand(1, 8, 8, 3)
    states = []
    for config in (AugmentConfig(), FULL):
        generator = torch.Generator().manual_seed(2)
        augment(images, config, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_gradient_is_right() -> None:
    images = (0.3 + 0.4 * torch.rand(2, 8, 8, 3, dtype=torch.float64)).requires_grad_()

    def change(pictures: torch.Tensor) -> torch.Tensor:
        return augment(pictures, FULL, torch.Generator().manual_seed(1))

    assert torch.autograd.gradcheck(change, images, fast_mode=True)


def test_a_window_shifts_and_zooms_as_said() -> None:
    images = torch.zeros(1, 16, 16, 3)
    images[0, 8, 8] = 1.0
    moved = reframe(images, 1.0, 2 / 16, -3 / 16)
    assert float(moved[0, 11, 6, 0]) > 0.9, (
        "the window goes right and up, so its content goes left and down"
    )
    torch.testing.assert_close(reframe(images, 1.0, 0.0, 0.0), images, atol=1e-6, rtol=0.0)
    ramp = torch.linspace(0.0, 1.0, 16)[None, None, :, None].expand(1, 16, 16, 3)
    closer = reframe(ramp, 0.5, 0.0, 0.0)
    assert float(closer[0, 8, -1, 0] - closer[0, 8, 0, 0]) < 0.6

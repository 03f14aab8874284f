"""Densification by sampling: where Gaussians go, how many they are, and that the picture stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vlm3d_gs.cameras import orbit
from vlm3d_gs.config import DensifyConfig
from vlm3d_gs.initialize import ball
from vlm3d_gs.mcmc import relocate, shake
from vlm3d_gs.render import render
from vlm3d_gs.scene import Gaussians

CONFIG = DensifyConfig(method="mcmc", grow_share=0.25, prune_opacity=0.05)


def scene(generator: torch.Generator, n: int = 40, dead: int = 10) -> Gaussians:
    """Return n Gaussians of which the first `dead` are too faint."""
    start = ball(n, 0.5, generator, opacity=0.6, color_noise=0.3)
    start.opacity_logits[:dead] = -6.0
    return start


def picture(gaussians: Gaussians) -> Tensor:
    return render(gaussians, orbit([0.0, 120.0], 15.0, 3.0, 40.0, 48, 48), backend="cpu").color


def test_the_dead_go_where_opaque_ones_stand_and_new_ones_too(generator: torch.Generator) -> None:
    start = scene(generator)
    result = relocate(start, CONFIG, 1000, generator)
    assert len(result.gaussians) == 50  # 40, and a quarter
    places = result.source[30:]
    assert (places >= 10).all()
    assert result.source[:30].tolist() == list(range(10, 40))
    torch.testing.assert_close(result.gaussians.means, start.means[result.source])
    assert (result.gaussians.opacities >= CONFIG.prune_opacity - 1e-6).all()


def test_what_shares_a_place_is_fainter_alike_and_begins_anew(generator: torch.Generator) -> None:
    start = scene(generator)
    result = relocate(start, CONFIG, 1000, generator)
    copies = torch.bincount(result.source, minlength=40)
    shared = copies[result.source] > 1
    assert torch.equal(result.fresh, shared)
    assert 0 < int((~shared).sum()) < 50
    alone = result.gaussians.select(~shared)
    torch.testing.assert_close(alone.opacity_logits, start.opacity_logits[result.source[~shared]])
    clear = 1.0 - result.gaussians.opacities
    together = clear ** copies[result.source]
    torch.testing.assert_close(together, 1.0 - start.opacities[result.source])


def test_the_picture_hardly_changes_where_plain_copies_would_change_it(
    generator: torch.Generator,
) -> None:
    start = scene(generator)
    result = relocate(start, CONFIG, 1000, generator)
    before, plain = picture(start), picture(start.select(result.source))
    moved = (picture(result.gaussians) - before).abs().mean()
    assert moved < 0.25 * (plain - before).abs().mean()


def test_opaque_gaussians_are_chosen_more_often(generator: torch.Generator) -> None:
    start = scene(generator, n=20, dead=0)
    start.opacity_logits[:10] = torch.tensor(0.1).logit()
    start.opacity_logits[10:] = torch.tensor(0.9).logit()
    drawn = relocate(start, replace(CONFIG, grow_share=1.0), 1000, generator)
    for _ in range(20):
        again = relocate(start, replace(CONFIG, grow_share=1.0), 1000, generator)
        drawn = replace(drawn, source=torch.cat([drawn.source, again.source[20:]]))
    chosen = drawn.source[20:]
    assert (chosen >= 10).float().mean().item() == pytest.approx(0.9, abs=0.05)


def test_the_cap_holds_and_nothing_to_do_is_nothing_done(generator: torch.Generator) -> None:
    start = scene(generator)
    assert len(relocate(start, CONFIG, 43, generator).gaussians) == 43
    assert len(relocate(start, CONFIG, 10, generator).gaussians) == 40
    alive = scene(generator, dead=0)
    idle = relocate(alive, replace(CONFIG, grow_share=0.0), 1000, generator)
    assert idle.source.tolist() == list(range(40))
    assert not idle.fresh.any()
    torch.testing.assert_close(idle.gaussians.log_scales, alive.log_scales)


def test_a_scene_of_air_goes_on(generator: torch.Generator) -> None:
    start = scene(generator)
    start.opacity_logits[:] = -300.0  # an opacity of 0 in float32
    start.opacity_logits[7] = -200.0
    result = relocate(start, replace(CONFIG, grow_share=0.0), 1000, generator)
    assert len(result.source) == 40
    assert result.gaussians.means.isfinite().all()
    for value in result.gaussians.parameters().values():
        assert value.isfinite().all()


def test_only_faint_gaussians_are_shaken_and_less_later(generator: torch.Generator) -> None:
    start = scene(generator)
    means = start.means.clone()

    def moved(fraction: float) -> Tensor:
        start.means.copy_(means)
        shake(start.parameters(), CONFIG, fraction, torch.Generator().manual_seed(3))
        return (start.means - means).norm(dim=-1)

    early, late = moved(0.0), moved(1.0)
    assert (early[:10] > 0.0).all()
    assert early[10:].max() < 1e-6
    torch.testing.assert_close(late[:10], early[:10] / 100.0, rtol=0.05, atol=1e-6)

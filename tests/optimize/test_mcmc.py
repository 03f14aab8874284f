"""Densification by sampling: where Gaussians go, how many they are, and that the picture stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vlm3d_gs.config import DensifyConfig
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.kernels.mcmc import MAX_COPIES
from vlm3d_gs.optimize.densify import keep_mask
from vlm3d_gs.optimize.mcmc import draw_indices, perturb, relocate
from vlm3d_gs.render import render

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
    assert keep_mask(result.gaussians, CONFIG).all()


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


@pytest.mark.parametrize("prune_opacity", [0.005, 0.02, 0.05])
def test_what_is_made_is_not_dead_at_once(generator: torch.Generator, prune_opacity: float) -> None:
    config = replace(CONFIG, prune_opacity=prune_opacity)
    start = scene(generator)
    start.opacity_logits[:] = torch.tensor(1.2 * prune_opacity).logit()  # halved, it would be
    result = relocate(start, config, 1000, generator)
    assert result.fresh.any()
    assert keep_mask(result.gaussians, config).all()


def test_a_scene_of_air_goes_on(generator: torch.Generator) -> None:
    start = scene(generator)
    start.opacity_logits[:] = -300.0  # an opacity of 0 in float32
    result = relocate(start, replace(CONFIG, grow_share=0.0), 1000, generator)
    assert len(set(result.source.tolist())) == 1
    assert len(result.source) == 40
    assert keep_mask(result.gaussians, CONFIG).all()


def test_one_place_takes_no_crowd(generator: torch.Generator) -> None:
    start = scene(generator, n=200, dead=199)
    result = relocate(start, replace(CONFIG, grow_share=0.0), 1000, generator)
    assert result.source.tolist() == [199] * MAX_COPIES
    clear = (1.0 - result.gaussians.opacities).prod()
    least = (1.0 - 1.01 * CONFIG.prune_opacity) ** MAX_COPIES
    torch.testing.assert_close(clear, torch.tensor(least), rtol=1e-3, atol=0.0)


def test_many_places_are_drawn_by_their_share(generator: torch.Generator) -> None:
    opacities = torch.full((1_000_000,), 0.97)
    opacities[::2] = (
        0.021  # torch.multinomial, summing in float32, draws half as many again of these
    )
    places = draw_indices(opacities, 200_000, generator)
    share = float((places % 2 == 0).double().mean())
    assert share == pytest.approx(0.021 / 0.991, rel=0.05)


def test_what_is_too_large_or_too_far_moves_too_and_all_of_a_gaussian_follows(
    generator: torch.Generator,
) -> None:
    start = scene(generator, dead=0)
    start.log_scales[0] = 1.0
    start.means[1] = 3.0
    result = relocate(start, replace(CONFIG, grow_share=0.0), 1000, generator)
    assert not set(result.source.tolist()) & {0, 1}
    for name in ("means", "quats", "sh"):
        expected = getattr(start, name)[result.source]
        assert torch.equal(getattr(result.gaussians, name), expected), name


def test_the_operators_do_what_their_references_do_in_a_round(generator: torch.Generator) -> None:
    start = scene(generator)
    ours, theirs = (
        relocate(start, CONFIG, 1000, torch.Generator().manual_seed(2), fused=fused)
        for fused in (True, False)
    )
    moved = []
    for result, fused in ((ours, True), (theirs, False)):
        leaves = {name: value.clone() for name, value in result.gaussians.parameters().items()}
        perturb(leaves, CONFIG, 0.0, torch.Generator().manual_seed(3), fused=fused)
        moved.append(leaves)
    for name, value in moved[0].items():
        assert torch.equal(value, moved[1][name]), name


def test_only_faint_gaussians_are_moved_and_less_later(generator: torch.Generator) -> None:
    start = scene(generator)
    means = start.means.clone()

    def moved(fraction: float) -> Tensor:
        start.means.copy_(means)
        perturb(start.parameters(), CONFIG, fraction, torch.Generator().manual_seed(3))
        return (start.means - means).norm(dim=-1)

    early, late = moved(0.0), moved(1.0)
    assert (early[:10] > 0.0).all()
    assert early[10:].max() < 1e-6
    torch.testing.assert_close(late[:10], early[:10] / 10.0, rtol=0.05, atol=1e-6)

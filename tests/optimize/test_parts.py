"""Loose parts: what counts as connected, and what is too little to keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.optimize.parts import connected_parts, loose_mask

GAP = 0.06
WIDTHS = 4.0
"""A random ball has larger holes than a trained surface."""


def clump(n: int, center: tuple[float, float, float], generator: torch.Generator) -> torch.Tensor:
    return torch.tensor(center) + 0.1 * torch.rand(n, 3, generator=generator)


def test_two_clumps_are_two_parts(generator: torch.Generator) -> None:
    means = torch.cat([clump(200, (-0.5, 0, 0), generator), clump(200, (0.3, 0, 0), generator)])
    parts = connected_parts(means, GAP)
    assert len(parts[:200].unique()) == len(parts[200:].unique()) == 1
    assert parts[0] != parts[-1]


def test_parts_agree_with_all_pairs(generator: torch.Generator) -> None:
    # Against the definition, cell by cell: a random cloud near the density at which it falls apart.
    means = torch.rand(300, 3, generator=generator)
    gap = 0.08
    cells = (means / gap).floor()
    near = (cells[:, None] - cells[None]).abs().amax(-1) <= 1
    reach = near
    for _ in range(9):
        reach = (reach.float() @ reach.float()) > 0

    parts = connected_parts(means, gap)
    assert 1 < len(parts.unique()) < 300
    assert torch.equal(parts[:, None] == parts[None], reach)


def test_a_long_chain_is_one_part() -> None:
    means = torch.zeros(500, 3)
    means[:, 1] = torch.arange(500) * GAP * 0.99
    assert len(connected_parts(means, GAP).unique()) == 1


@pytest.mark.parametrize("far", [1e6, 1e30, float("inf"), float("nan")])
def test_any_position_is_taken(far: float) -> None:
    means = torch.tensor([[0.0, 0.0, 0.0], [0.01, 0.0, 0.0], [far, -far, far]])
    parts = connected_parts(means, GAP)
    assert parts[0] == parts[1]


def scene_with_speck(generator: torch.Generator) -> Gaussians:
    """300 Gaussians in one clump and 6 fainter ones beside it."""
    scene = ball(306, 0.1, generator, opacity=0.7, color_noise=0.0, sh_degree=0)
    means, logits = scene.means.clone(), scene.opacity_logits.clone()
    means[300:] += torch.tensor([0.0, 0.0, 0.5])
    logits[300:] = -2.0
    return replace(scene, means=means, opacity_logits=logits)


def test_a_speck_is_loose_and_a_second_object_is_not(generator: torch.Generator) -> None:
    scene = scene_with_speck(generator)
    loose = loose_mask(scene, WIDTHS, 0.02)
    assert loose.nonzero()[:, 0].tolist() == list(range(300, 306))

    # More than 2 % of the whole, and it stays: 6 of opacity 0.98 beside 300 of 0.7.
    heavy = scene.opacity_logits.clone()
    heavy[300:] = 4.0
    assert not loose_mask(replace(scene, opacity_logits=heavy), WIDTHS, 0.02).any()


def test_share_zero_keeps_all_and_one_part_is_never_loose(generator: torch.Generator) -> None:
    scene = scene_with_speck(generator)
    assert not loose_mask(scene, WIDTHS, 0.0).any()
    assert not loose_mask(scene.select(torch.arange(300)), WIDTHS, 1.0).any()


def test_the_largest_part_stays_however_large_a_share_is_asked_for(
    generator: torch.Generator,
) -> None:
    loose = loose_mask(scene_with_speck(generator), WIDTHS, 1.0)
    assert loose.nonzero()[:, 0].tolist() == list(range(300, 306))

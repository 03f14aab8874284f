"""Perpendicular components, their combination, and the weights of the views as negatives."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ShapeError
from vlm3d_gs.prior.noise import clean_and_noise, diffusion_schedule
from vlm3d_gs.prior.perp_neg import perp_neg_guidance, perp_neg_weights, perpendicular
from vlm3d_gs.prior.view_prompts import BACK, FRONT, OVERHEAD, SIDE


def drawn(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def weights_at(azimuth: float, elevation: float = 0.0) -> list[float]:
    return perp_neg_weights(orbit(azimuth, elevation, 3.0, 40.0, 64, 64))[0].tolist()


def test_the_component_is_perpendicular_and_the_rest_parallel(generator: torch.Generator) -> None:
    update, direction = drawn(generator, 3, 4, 5, 5), drawn(generator, 3, 4, 5, 5)
    component = perpendicular(update, direction)
    for sample in range(3):
        across = torch.dot(component[sample].flatten(), direction[sample].flatten())
        assert abs(float(across)) < 1e-10
        rest = (update - component)[sample].flatten()
        along = direction[sample].flatten()
        cosine = torch.dot(rest, along) / (rest.norm() * along.norm())
        assert abs(float(cosine)) == pytest.approx(1.0)


def test_each_sample_has_its_own_projection(generator: torch.Generator) -> None:
    update, direction = drawn(generator, 4, 2, 3), drawn(generator, 4, 2, 3)
    alone = [perpendicular(update[i : i + 1], direction[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(perpendicular(update, direction), torch.cat(alone))


@pytest.mark.parametrize(
    ("update", "direction", "expected"),
    [
        ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)),
        ((1.0, 1.0), (0.0, -3.0), (1.0, 0.0)),
        ((3.0, 1.0), (1.0, 1.0), (1.0, -1.0)),
        ((2.0, 4.0), (-1.0, -2.0), (0.0, 0.0)),
        ((2.0, 4.0), (0.0, 0.0), (2.0, 4.0)),
    ],
)
def test_components_in_the_plane(
    update: tuple[float, ...], direction: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    component = perpendicular(torch.tensor([update]), torch.tensor([direction]))
    torch.testing.assert_close(component, torch.tensor([expected]))


def test_large_half_precision_outputs_do_not_overflow() -> None:
    ones = torch.full((1, 4, 64, 64), 8.0, dtype=torch.float16)
    component = perpendicular(ones, ones)
    assert component.dtype == torch.float32
    assert float(component.abs().max()) < 1e-4


def test_combination_in_the_plane() -> None:
    base, positive = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 1.0]])
    negatives = torch.tensor([[[2.0, 2.0]], [[-4.0, 0.0]]])
    # d = (1, 0); the negatives' updates are (1, 1) and (-5, -1), across d: (0, 1) and (0, -1).
    guided = perp_neg_guidance(base, positive, negatives, torch.tensor([[-0.5, -0.25]]), 2.0)
    torch.testing.assert_close(guided, torch.tensor([[3.0, 0.5]]))


def test_turning_all_outputs_turns_the_result(generator: torch.Generator) -> None:
    base, positive = drawn(generator, 3, 2), drawn(generator, 3, 2)
    negatives, weights = drawn(generator, 2, 3, 2), drawn(generator, 3, 2)
    c, s = math.cos(0.7), math.sin(0.7)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    guided = perp_neg_guidance(base, positive, negatives, weights, 5.0)
    turned = perp_neg_guidance(base @ turn.T, positive @ turn.T, negatives @ turn.T, weights, 5.0)
    torch.testing.assert_close(turned, guided @ turn.T)


def test_without_effective_negatives_it_is_classifier_free_guidance(
    generator: torch.Generator,
) -> None:
    base, positive = drawn(generator, 2, 4, 3, 3), drawn(generator, 2, 4, 3, 3)
    plain = base + 7.5 * (positive - base)
    negatives, weights = drawn(generator, 3, 2, 4, 3, 3), drawn(generator, 2, 3)
    torch.testing.assert_close(
        perp_neg_guidance(base, positive, negatives, 0.0 * weights, 7.5), plain
    )
    none = perp_neg_guidance(base, positive, negatives[:0], weights[:, :0], 7.5)
    torch.testing.assert_close(none, plain)
    parallel = torch.stack([base + share * (positive - base) for share in (-2.0, 0.3, 1.0)])
    torch.testing.assert_close(perp_neg_guidance(base, positive, parallel, weights, 7.5), plain)


def test_a_negative_moves_away_from_what_is_its_own(generator: torch.Generator) -> None:
    base, positive = drawn(generator, 2, 4, 3, 3), drawn(generator, 2, 4, 3, 3)
    negative, weights = drawn(generator, 1, 2, 4, 3, 3), torch.tensor([[-1.0], [0.0]])
    moved = perp_neg_guidance(base, positive, negative, weights, 1.0) - positive
    own = perpendicular(negative[0] - base, positive - base)
    assert float((moved[0] * own[0]).sum()) < 0.0
    assert float(moved[1].abs().max()) == pytest.approx(0.0, abs=1e-12)


def test_combination_has_the_right_gradient(generator: torch.Generator) -> None:
    inputs = (drawn(generator, 2, 3), drawn(generator, 2, 3), drawn(generator, 2, 2, 3))
    weights = drawn(generator, 2, 2)
    assert torch.autograd.gradcheck(
        lambda base, positive, negatives: perp_neg_guidance(
            base, positive, negatives, weights, 3.0
        ),
        tuple(tensor.requires_grad_() for tensor in inputs),
    )


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_raw_outputs_combine_as_noise_does(kind: str, generator: torch.Generator) -> None:
    noise_schedule = diffusion_schedule(torch.linspace(0.99, 0.01, 100), kind)
    timesteps = torch.tensor([5, 60, 95])
    noisy = torch.randn(3, 2, 4, 4, generator=generator)
    outputs = torch.randn(4, 3, 2, 4, 4, generator=generator)
    weights = -torch.rand(3, 2, generator=generator)
    raw = perp_neg_guidance(outputs[0], outputs[1], outputs[2:], weights, 4.0)
    noises = torch.stack(
        [clean_and_noise(noise_schedule, item, noisy, timesteps)[1] for item in outputs]
    )
    expected = perp_neg_guidance(noises[0], noises[1], noises[2:], weights, 4.0)
    got = clean_and_noise(noise_schedule, raw, noisy, timesteps)[1]
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)


def test_wrong_shapes_are_refused() -> None:
    base = torch.zeros(2, 3)
    with pytest.raises(ShapeError, match="weights"):
        perp_neg_guidance(base, base, torch.zeros(1, 2, 3), torch.zeros(1, 2), 1.0)
    with pytest.raises(ShapeError, match="negatives"):
        perp_neg_guidance(base, base, torch.zeros(2, 3), torch.zeros(2, 2), 1.0)
    with pytest.raises(ShapeError, match="direction"):
        perpendicular(base, torch.zeros(2, 4))


def test_weights_at_the_named_views() -> None:
    front, side, back = weights_at(0.0), weights_at(90.0), weights_at(180.0)
    assert front[FRONT] == pytest.approx(0.0, abs=1e-3)
    assert front[SIDE] == pytest.approx(-(4.0 - 2.426), abs=1e-5)
    assert side[SIDE] == pytest.approx(0.0, abs=1e-3)
    assert side[FRONT] == pytest.approx(-(math.exp(-0.5) + 0.967), abs=1e-5)
    assert back[SIDE] == pytest.approx(-(1.0 - 0.606), abs=1e-5)
    assert back[FRONT] == pytest.approx(-(1.0 + 0.967), abs=1e-5)


def test_weights_between_the_views_follow_the_decays() -> None:
    third = weights_at(-30.0)
    assert third[FRONT] == pytest.approx(-(4.0 * math.exp(-0.5 * 2 / 3) - 2.426), abs=1e-4)
    assert third[SIDE] == pytest.approx(-(4.0 * math.exp(-0.5 / 3) - 2.426), abs=1e-4)
    rear = weights_at(135.0)
    assert rear[FRONT] == pytest.approx(-(math.exp(-0.25) + 0.967), abs=1e-4)
    assert rear[SIDE] == pytest.approx(-(math.exp(-0.25) - 0.606), abs=1e-4)


@given(st.floats(-360.0, 360.0), st.floats(-90.0, 90.0))
def test_weights_are_never_positive_and_the_back_is_no_negative(
    azimuth: float, elevation: float
) -> None:
    weights = weights_at(azimuth, elevation)
    assert max(weights) <= 0.0
    assert weights[BACK] == weights[OVERHEAD] == 0.0


@given(st.floats(-360.0, 360.0), st.floats(-90.0, 88.0), st.floats(0.0, 1.0))
def test_weights_never_jump(azimuth: float, elevation: float, step: float) -> None:
    before, after = weights_at(azimuth, elevation), weights_at(azimuth + step, elevation + step)
    slope = 4.0 * 0.5 / 90.0 + 2.0 / 30.0
    for one, other in zip(before, after, strict=True):
        assert abs(one - other) <= slope * step + 2e-3


def test_the_front_is_pushed_away_ever_more_on_the_way_back() -> None:
    shares = [weights_at(azimuth)[FRONT] for azimuth in range(0, 181, 10)]
    assert all(later <= earlier + 1e-3 for earlier, later in pairwise(shares))


def test_from_above_nothing_is_a_negative() -> None:
    assert weights_at(180.0, 80.0) == [0.0] * 4
    half = weights_at(180.0, 60.0)
    assert half[FRONT] == pytest.approx(0.5 * weights_at(180.0)[FRONT], abs=1e-4)

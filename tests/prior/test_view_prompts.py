"""Texts of the four views, their weights for a camera, and the mixed embeddings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.errors import ConfigError, PromptError, ShapeError
from vlm3d_gs.prior.denoiser import TextEmbedding
from vlm3d_gs.prior.view_prompts import (
    BACK,
    FRONT,
    OVERHEAD,
    SIDE,
    VIEWS,
    drop_contradictions,
    mix_texts,
    view_texts,
    view_weights,
)

AZIMUTHS = st.floats(-720.0, 720.0)
ELEVATIONS = st.floats(-90.0, 90.0)


def at(azimuth: float | list[float], elevation: float | list[float] = 0.0) -> Cameras:
    return orbit(azimuth, elevation, 3.0, 40.0, 64, 64)


def test_each_view_is_named_after_the_prompt() -> None:
    assert view_texts(" a corgi. ") == tuple(f"a corgi, {view} view" for view in VIEWS)


@pytest.mark.parametrize("prompt", ["", "  ", "?!"])
def test_a_prompt_without_words_is_refused(prompt: str) -> None:
    with pytest.raises(PromptError, match="no word"):
        view_texts(prompt)


@pytest.mark.parametrize("half_angle_deg", [30.0, 45.0])
@given(AZIMUTHS, st.floats(-59.0, 59.0))
def test_bins_are_those_of_the_position(
    half_angle_deg: float, azimuth: float, elevation: float
) -> None:
    cameras = at(azimuth, elevation)
    x, y, _ = cameras.positions[0].tolist()
    from_front = math.degrees(math.atan2(abs(y), x))
    edges = (abs(from_front - half_angle_deg), abs(from_front - 180.0 + half_angle_deg))
    if min(edges) < 1e-3:
        return
    expected = SIDE
    if from_front < half_angle_deg:
        expected = FRONT
    elif from_front > 180.0 - half_angle_deg:
        expected = BACK
    weights = view_weights(cameras, interpolate=False, half_angle_deg=half_angle_deg)
    assert weights[0].tolist() == [float(view == expected) for view in range(4)]


def test_the_four_named_azimuths_have_their_views_alone() -> None:
    for interpolate in (False, True):
        weights = view_weights(at([0.0, 90.0, 180.0, 270.0]), interpolate=interpolate)
        assert weights.dtype == torch.float32
        assert weights.tolist() == torch.eye(4)[[FRONT, SIDE, BACK, SIDE]].tolist()


@pytest.mark.parametrize(
    ("azimuth", "expected"),
    [
        (30.0, [2 / 3, 1 / 3, 0.0]),
        (-30.0, [2 / 3, 1 / 3, 0.0]),
        (45.0, [0.5, 0.5, 0.0]),
        (150.0, [0.0, 1 / 3, 2 / 3]),
        (-135.0, [0.0, 0.5, 0.5]),
        (585.0, [0.0, 0.5, 0.5]),
    ],
)
def test_interpolation_is_linear_in_the_angle(azimuth: float, expected: list[float]) -> None:
    weights = view_weights(at(azimuth, 20.0))[0]
    torch.testing.assert_close(weights, torch.tensor([*expected, 0.0]), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(
    ("elevation", "share"), [(-80.0, 0.0), (45.0, 0.0), (60.0, 0.5), (67.5, 0.75), (75.0, 1.0)]
)
def test_interpolation_turns_to_overhead_over_a_band(elevation: float, share: float) -> None:
    weights = view_weights(at(45.0, elevation))[0]
    expected = [0.5 * (1.0 - share), 0.5 * (1.0 - share), 0.0, share]
    torch.testing.assert_close(weights, torch.tensor(expected), atol=1e-5, rtol=0.0)


def test_hard_bins_are_overhead_above_the_limit_only() -> None:
    cameras = at(180.0, [59.0, 60.0, 61.0])
    views = view_weights(cameras, interpolate=False).argmax(1).tolist()
    assert views == [BACK, BACK, OVERHEAD]
    assert view_weights(cameras, interpolate=False, overhead_deg=50.0)[0, OVERHEAD] == 1.0


@given(AZIMUTHS, ELEVATIONS, st.booleans())
def test_weights_are_shares(azimuth: float, elevation: float, interpolate: bool) -> None:
    weights = view_weights(at(azimuth, elevation), interpolate=interpolate)
    assert float(weights.min()) >= 0.0
    torch.testing.assert_close(weights.sum(1), torch.ones(1), atol=1e-6, rtol=0.0)


@given(AZIMUTHS, ELEVATIONS, st.floats(0.0, 2.0), st.floats(-2.0, 2.0))
def test_interpolation_never_jumps(azimuth: float, elevation: float, da: float, de: float) -> None:
    other = max(-90.0, min(90.0, elevation + de))
    weights = view_weights(at([azimuth, azimuth + da], [elevation, other]))
    allowed = da / 90.0 + abs(de) / 30.0 + 1e-4
    assert float((weights[0] - weights[1]).abs().max()) <= allowed


@given(AZIMUTHS, st.floats(-90.0, 40.0))
def test_the_hard_bin_is_the_largest_interpolated_share(azimuth: float, elevation: float) -> None:
    cameras = at(azimuth, elevation)
    shares, hard = view_weights(cameras)[0], view_weights(cameras, interpolate=False)[0]
    assert float(shares[hard.argmax()]) >= float(shares.max()) - 1e-4


@pytest.mark.parametrize("angles", [{"half_angle_deg": 0.0}, {"overhead_deg": 91.0}])
def test_angles_out_of_range_are_refused(angles: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at most 90 degrees"):
        view_weights(at(0.0), **angles)


def test_mixing_is_the_weighted_sum_in_value_and_gradient(generator: torch.Generator) -> None:
    tokens = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)
    pooled = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    mixed = mix_texts(TextEmbedding(tokens, pooled), weights)
    assert mixed.pooled is not None
    upstream = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((mixed.tokens * upstream).sum(), weights)
    for camera in range(2):
        shares = weights[camera].detach().tolist()
        expected = sum(share * text for share, text in zip(shares, tokens, strict=True))
        torch.testing.assert_close(mixed.tokens[camera].detach(), expected)
        expected = sum(share * text for share, text in zip(shares, pooled, strict=True))
        torch.testing.assert_close(mixed.pooled[camera].detach(), expected)
        for text in range(4):
            product = float((tokens[text] * upstream[camera]).sum())
            assert float(gradient[camera, text]) == pytest.approx(product)


def test_hard_weights_pick_texts_exactly(generator: torch.Generator) -> None:
    texts = TextEmbedding(torch.randn(4, 7, 8, generator=generator).half())
    mixed = mix_texts(texts, view_weights(at([180.0, 10.0]), interpolate=False))
    assert torch.equal(mixed.tokens, texts.rows([BACK, FRONT]).tokens)
    assert mixed.tokens.dtype == torch.float16
    assert mixed.pooled is None


def test_weights_for_another_number_of_texts_are_refused() -> None:
    with pytest.raises(ShapeError, match="weights"):
        mix_texts(TextEmbedding(torch.zeros(3, 7, 8)), torch.ones(2, 4))


@pytest.mark.parametrize(
    ("prompt", "view", "expected"),
    [
        ("a corgi looking at the camera, wearing a hat", "back", "a corgi, wearing a hat"),
        ("a corgi looking at the camera, wearing a hat", "side", "a corgi, wearing a hat"),
        ("a smiling corgi", "back", "a corgi"),
        ("a smiling corgi", "side", "a smiling corgi"),
        ("a corgi with a big smile and winking", "overhead", "a corgi"),
        ("A Front View of a corgi", "back", "a corgi"),
        ("a corgi, seen from behind, facing the viewer", "back", "a corgi, seen from behind"),
        ("a corgi, seen from behind", "front", "a corgi"),
        ("a top-down view of a table", "side", "a table"),
        ("a corgi in front of a house", "back", "a corgi in front of a house"),
        ("the frontier, a postal worker, sidewalk", "overhead", "the frontier, a postal worker, sidewalk"),
        ("front view", "back", "front view"),
    ],
)  # fmt: skip
def test_words_against_a_view_are_dropped(prompt: str, view: str, expected: str) -> None:
    assert drop_contradictions(prompt, view) == expected


def test_debiasing_is_off_unless_asked_for() -> None:
    prompt = "a smiling corgi"
    assert view_texts(prompt)[BACK] == "a smiling corgi, back view"
    assert view_texts(prompt, debias=True)[BACK] == "a corgi, back view"
    assert view_texts(prompt, debias=True)[FRONT] == "a smiling corgi, front view"


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(ConfigError, match="front, side, back, overhead"):
        drop_contradictions("a corgi", "left")

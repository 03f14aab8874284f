"""Checks of tensors: what passes, and what the errors say."""

from __future__ import annotations

import math

import pytest
import torch

from vlm3d_gs.core.checks import expect_finite, expect_same_device, expect_shape
from vlm3d_gs.core.errors import ConfigError, ShapeError


def test_named_dimensions_are_returned_and_must_repeat():
    assert expect_shape("x", torch.zeros(4, 3, 4), ("N", 3, "N")) == {"N": 4}
    assert expect_shape("x", torch.zeros(0, 7), (0, None)) == {}
    with pytest.raises(
        ShapeError, match=r"x must be a tensor of shape \[N, 3, N\], got \[4, 3, 5\]"
    ):
        expect_shape("x", torch.zeros(4, 3, 5), ("N", 3, "N"))


@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(2, 4), [1.0, 2.0, 3.0]])
def test_another_shape_or_no_tensor_is_refused(value):
    with pytest.raises(ShapeError, match="points must be a tensor of shape"):
        expect_shape("points", value, (None, 3))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_counted_and_located(bad):
    values = torch.zeros(3, 2)
    values[1, 0] = bad
    with pytest.raises(ConfigError, match=r"means has 1 values .* first at index \[1, 0\]"):
        expect_finite("means", values)


def test_large_finite_values_pass_though_their_sum_overflows():
    expect_finite("means", torch.full((4,), 3e38))
    expect_finite("means", torch.zeros(0))


def test_infinities_of_both_signs_do_not_cancel():
    with pytest.raises(ConfigError, match="has 2 values"):
        expect_finite("means", torch.tensor([math.inf, -math.inf]))


def test_devices_must_agree():
    expect_same_device({"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(ShapeError, match="a on cpu, b on meta"):
        expect_same_device({"a": torch.zeros(1), "b": torch.zeros(1, device="meta")})

"""Timesteps, drawn or descending, and their weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.noise import diffusion_schedule, flow_schedule
from vlm3d_gs.prior.timesteps import (
    WEIGHTINGS,
    descend_timesteps,
    draw_timesteps,
    timestep_weight,
)


def test_timesteps_are_shared_in_a_group_and_stay_in_range(generator: torch.Generator) -> None:
    steps = draw_timesteps(0.2, 0.5, 500, 4, 1000, generator)
    groups = steps.unflatten(0, (500, 4))
    assert (groups == groups[:, :1]).all()
    assert 200 <= int(steps.min()) < 215
    assert 485 < int(steps.max()) < 500
    assert draw_timesteps(1.0, 1.0, 1, 1, 1000, generator).item() == 999


def test_weights_of_known_levels() -> None:
    """alpha_bar 0.64 is signal 0.8 and sigma 0.6; a flow model has the same ratio at sigma 3/7."""
    expected = {"uniform": 1.0, "sds": 0.36, "fantasia3d": 0.8 * 0.36, "ism": 0.75}
    diffusion = diffusion_schedule(torch.tensor([0.999, 0.64]), "epsilon")
    flow = flow_schedule(7)
    assert set(expected) == set(WEIGHTINGS)
    for kind, value in expected.items():
        for noise_schedule, timestep in ((diffusion, 1), (flow, 2)):
            weight = timestep_weight(kind, noise_schedule, torch.tensor([timestep, 0]))
            assert weight.shape == (2, 1, 1, 1)
            assert weight[0].item() == pytest.approx(value, rel=1e-6)
    with pytest.raises(ConfigError, match="'sd'. Known: uniform, sds, fantasia3d, ism"):
        timestep_weight("sd", flow, torch.tensor([0]))


def test_weights_stay_finite_where_the_signal_vanishes() -> None:
    noise_schedule = diffusion_schedule(torch.tensor([0.9, 0.0]), "v_prediction")
    for kind in WEIGHTINGS:
        assert timestep_weight(kind, noise_schedule, torch.tensor([0, 1])).isfinite().all()


def test_descent_runs_from_high_to_low() -> None:
    ends = [descend_timesteps(0.02, 0.98, fraction, 4, 1000) for fraction in (0.0, 0.5, 1.0)]
    assert [steps.tolist() for steps in ends] == [[980] * 4, [500] * 4, [20] * 4]
    assert ends[0].dtype == torch.int64
    assert descend_timesteps(0.0, 1.0, 0.0, 1, 1000).item() == 999


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(1, 1000))
def test_descent_stays_on_the_line(low: float, high: float, fraction: float, n_train: int) -> None:
    step = descend_timesteps(low, high, fraction, 1, n_train).item()
    assert 0 <= step < n_train
    expected = min((1.0 - fraction) * high + fraction * low, 1.0) * n_train
    assert expected - 1.001 <= step <= expected + 0.001

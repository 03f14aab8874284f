from __future__ import annotations

import pytest
import torch

from vlm3d_gs.core.errors import CheckpointError
from vlm3d_gs.core.seeding import capture_states, generator, generators, restore_states, stream_seed


def draw(stream: torch.Generator) -> torch.Tensor:
    return torch.randn(8, generator=stream)


def test_equal_names_give_equal_numbers_and_others_do_not() -> None:
    assert torch.equal(draw(generator(1, "cameras")), draw(generator(1, "cameras")))
    assert not torch.equal(draw(generator(1, "cameras")), draw(generator(1, "noise")))
    assert not torch.equal(draw(generator(1, "cameras")), draw(generator(2, "cameras")))


def test_a_stream_seed_is_the_same_on_every_machine() -> None:
    # sha256("0/cameras"), first eight bytes, without the lowest bit
    assert stream_seed(0, "cameras") == 8240328410276759855
    assert 0 <= stream_seed(2**62, "x") < 2**63


def test_streams_do_not_disturb_each_other() -> None:
    alone = generators(3, ["cameras", "noise"])
    mixed = generators(3, ["cameras", "noise"])
    draw(mixed["noise"])
    assert torch.equal(draw(alone["cameras"]), draw(mixed["cameras"]))


def test_a_restored_stream_goes_on_where_it_was() -> None:
    streams = generators(5, ["cameras", "noise"])
    draw(streams["cameras"])
    states = capture_states(streams)
    expected = {name: draw(stream) for name, stream in streams.items()}
    fresh = generators(99, ["cameras", "noise"])
    restore_states(fresh, states)
    for name, stream in fresh.items():
        assert torch.equal(draw(stream), expected[name])
        assert states[name].dtype == torch.uint8


def test_a_captured_state_does_not_move_with_its_stream() -> None:
    streams = generators(5, ["noise"])
    states = capture_states(streams)
    before = states["noise"].clone()
    draw(streams["noise"])
    assert torch.equal(states["noise"], before)


def test_missing_streams_are_refused() -> None:
    with pytest.raises(CheckpointError, match="noise"):
        restore_states(generators(5, ["cameras", "noise"]), {"cameras": torch.zeros(1)})

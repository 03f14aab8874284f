"""Recordings say what the function says, for every kind of inputs, and whatever is replayed in between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recordable import Recordable
from replayed import CpuGraphs, forget, same_memory
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.core.recording import Recorder, cuda_recorder


def curve(x: Tensor, shift: Tensor | None = None) -> Tensor:
    """Something whose gradient depends on where it is taken."""
    y = x.sin() * x
    return y if shift is None else y + shift * x.square()


@pytest.fixture
def graphs() -> CpuGraphs:
    return CpuGraphs()


@pytest.fixture
def recorder(graphs: CpuGraphs) -> Recorder:
    return Recorder(graphs)


def test_each_kind_of_inputs_is_recorded_once(recorder: Recorder, graphs: CpuGraphs) -> None:
    kinds = [
        torch.rand(3),
        torch.rand(4),
        torch.rand(4).double(),
        torch.rand(2, 2),
        torch.rand(4).requires_grad_(),
    ]
    for _ in range(3):
        for x in kinds:
            torch.testing.assert_close(recorder.call("curve", curve, x), curve(x))
    assert len(recorder) == len(kinds)
    assert graphs.captures == len(kinds) + 1  # one with a backward pass

    with torch.no_grad():  # no gradient is wanted here: the recording without one serves
        recorder.call("curve", curve, kinds[-1])
    assert len(recorder) == len(kinds)
    recorder.call("another", torch.cos, kinds[0])
    recorder.call("curve", curve, kinds[0], torch.ones(3))
    recorder.call("curve", curve, kinds[0], None)
    assert len(recorder) == len(kinds) + 3


def test_inputs_and_outputs_have_memory_of_their_own(recorder: Recorder) -> None:
    x = torch.rand(5)
    first = recorder.call("curve", curve, x)
    expected = curve(x)
    second = recorder.call("curve", curve, x + 1.0)
    assert not same_memory(first, second)
    torch.testing.assert_close(first, expected)

    forget(x)  # of the caller: what was recorded reads a copy
    torch.testing.assert_close(recorder.call("curve", curve, torch.ones(5)), curve(torch.ones(5)))


def test_inputs_in_another_layout(recorder: Recorder) -> None:
    x = torch.rand(4, 6)
    recorder.call("curve", curve, x)
    torch.testing.assert_close(recorder.call("curve", curve, torch.rand(6, 4).T * 0 + x), curve(x))
    torch.testing.assert_close(
        recorder.call("curve", curve, x[:1].expand(4, 6)), curve(x[:1].expand(4, 6))
    )


def test_gradients_of_the_inputs_that_want_one(recorder: Recorder) -> None:
    for _ in range(3):
        x, shift = torch.rand(5, requires_grad=True), torch.rand(5)
        weight = torch.rand(5)
        ours = torch.autograd.grad((recorder.call("curve", curve, x, shift) * weight).sum(), x)
        torch.testing.assert_close(ours, torch.autograd.grad((curve(x, shift) * weight).sum(), x))

        shift.requires_grad_()
        y = recorder.call("curve", curve, x, shift)
        ours = torch.autograd.grad((y * weight).sum(), (x, shift))
        expected = torch.autograd.grad((curve(x, shift) * weight).sum(), (x, shift))
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("between", ["the same", "another", "without gradient"])
def test_what_is_replayed_between_forward_and_backward_changes_nothing(
    recorder: Recorder, graphs: CpuGraphs, between: str
) -> None:
    x, other = (torch.rand(5, requires_grad=True) for _ in range(2))
    y = recorder.call("curve", curve, x)
    if between == "the same":
        recorder.call("curve", curve, other)
    elif between == "another":
        recorder.call("cosine", torch.cos, other)
    else:
        recorder.call("cosine", torch.cos, other.detach())

    before = graphs.replays
    (ours,) = torch.autograd.grad(y.sum(), x)
    assert graphs.replays == before + 2  # the forward pass again, since its memory is another's now
    torch.testing.assert_close(ours, torch.autograd.grad(curve(x).sum(), x)[0])


def test_without_anything_between_the_forward_pass_is_not_repeated(
    recorder: Recorder, graphs: CpuGraphs
) -> None:
    x = torch.rand(5, requires_grad=True)
    y = recorder.call("curve", curve, x)
    before = graphs.replays
    first = torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert graphs.replays == before + 1
    torch.testing.assert_close(first, torch.autograd.grad(y.sum(), x))  # once more, from the start


def test_no_leaf_takes_part_in_the_backward_pass_of_a_recording(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A leaf's node belongs to the stream on which it was made; torch warns of it while recording.
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x)
        return curve(x)

    x = torch.rand(3, requires_grad=True)
    torch.autograd.grad(recorder.call("curve", watched, x).sum(), x)
    assert seen
    assert not any(entry.is_leaf for entry in seen)


def test_what_cannot_be_recorded_runs_as_it_is_and_is_said_once() -> None:
    recorder = Recorder(CpuGraphs(Recordable))
    said: list[str] = []

    def selecting(x: Tensor) -> Tensor:
        return x[x > 0.5]

    with noticing(said.append):
        for _ in range(2):
            x = torch.rand(9)
            torch.testing.assert_close(recorder.call(("choice", 4), selecting, x), selecting(x))
            recorder.call("another choice", selecting, x)
        recorder.call("curve", curve, x)
    assert len(said) == 1
    assert "The choice cannot be recorded" in said[0]
    assert "aten::index" in said[0]
    assert len(recorder) == 1  # the others are recorded all the same


def test_an_error_of_the_function_stays_that_error(recorder: Recorder) -> None:
    def broken(x: Tensor) -> Tensor:
        raise ValueError("no such word")

    with pytest.raises(ValueError, match="no such word"):
        recorder.call("broken", broken, torch.rand(3))


def test_a_failing_function_fails_without_recording_too(recorder: Recorder) -> None:
    with pytest.raises(RuntimeError, match="size of tensor"):
        recorder.call("sum", torch.add, torch.rand(3), torch.rand(4))


def test_the_oldest_recording_is_forgotten() -> None:
    graphs = CpuGraphs()
    recorder = Recorder(graphs, most=2)
    for size in (1, 2, 1, 3, 1, 2):  # 2 is dropped for 3, 3 for 2; 1 is always used
        recorder.call("curve", curve, torch.rand(size))
    assert len(recorder) == 2
    assert graphs.captures == 4


def test_warmed_up_before_each_recording(recorder: Recorder, graphs: CpuGraphs) -> None:
    recorder.call("curve", curve, torch.rand(2))
    recorder.call("curve", curve, torch.rand(2))
    assert graphs.warm_ups == 2


def test_nothing_is_recorded_on_the_cpu() -> None:
    assert cuda_recorder(torch.device("cpu")) is None

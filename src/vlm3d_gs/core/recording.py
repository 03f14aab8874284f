"""Functions of tensors that are recorded once and then replayed: CUDA graphs, one for each kind of inputs.

A network of some thousand small operations waits for its host, which launches them one by one; a recording is launched
at once. What is recorded must ask the device for nothing, and take everything that changes as an input.

Inputs are copied to where the recording reads them, outputs from where it writes them. All recordings of a recorder
share one pool of memory, so that several of them need little more than the largest. Therefore a replay may destroy what
another one kept for its backward pass; it is then computed again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlm3d_gs.core.notices import notice

Function = Callable[..., Tensor]
"""From tensors, some of which may be None, to one tensor."""
Run = Callable[[], Sequence[Tensor]]

WARM_UPS = 2
"""Runs before a recording: libraries choose their algorithms and allocate what they keep."""
MOST_RECORDINGS = 32
"""Of one recorder; beyond that, the one that was not used for longest is forgotten."""


class Backend(Protocol):
    """What records."""

    def warm_up(self, run: Run) -> None:
        """Run once before recording."""

    def capture(self, run: Run) -> tuple[Sequence[Tensor], Callable[[], None]]:
        """Return where `run` leaves its results, and what computes them anew into the same memory."""


class CudaGraphs:
    """CUDA graphs of one device that share a pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, run: Run) -> None:
        """Run on a stream of its own, as the recording will."""
        stream, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            run()
        current.wait_stream(stream)

    def capture(self, run: Run) -> tuple[Sequence[Tensor], Callable[[], None]]:
        """Record what a run launches.

        Raises:
            RuntimeError: the run asks the device for something, or memory is short.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, such as the viewer's, may go on meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                results = run()
        except RuntimeError:
            with suppress(RuntimeError):
                torch.cuda.synchronize(self.device)
                torch.cuda.empty_cache()
            raise
        return results, graph.replay


class Recorder:
    """Calls functions by their recordings, and makes those at the first call."""

    def __init__(self, backend: Backend, most: int = MOST_RECORDINGS) -> None:
        """Start without recordings.

        Args:
            backend: what records.
            most: recordings to keep.
        """
        self.backend, self.most = backend, most
        self.turn = 0
        """Replays so far, of whichever recording."""
        self.variant: Hashable = None
        """What the functions' results depend on beside their inputs; each has its own recordings."""
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._eager: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._recordings)

    def call(self, name: Hashable, function: Function, *inputs: Tensor | None) -> Tensor:
        """Return `function(*inputs)`, by a replay where it can be recorded.

        Args:
            name: of the function; stands for the same one at each call, whatever it holds beside its inputs included.
            function: differentiable if an input requires a gradient.
            inputs: all on one device; None stays None.

        Returns:
            The function's result, in memory of its own. Differentiable, once, in the inputs that require a gradient.
        """
        if name in self._eager:
            return function(*inputs)

        key = (name, self.variant, tuple(map(kind, inputs)))
        recording = self._recordings.get(key)
        if recording is None:
            try:
                recording = Recording(self, function, inputs)
            except RuntimeError as error:
                self._give_up(name, error)
                return function(*inputs)

            self._recordings[key] = recording
            if len(self._recordings) > self.most:
                self._recordings.popitem(last=False)

        self._recordings.move_to_end(key)
        return recording(inputs)

    def _give_up(self, name: Hashable, error: RuntimeError) -> None:
        """Run a function without recording from now on; say so for the first."""
        if not self._eager:
            first_line = str(error).strip().partition("\n")[0]
            notice(
                f"The {title(name)} cannot be recorded as a CUDA graph and runs operation by operation, which is "
                f"slower ({first_line})."
            )
        self._eager.add(name)


class Recording:
    """One function for inputs of one kind."""

    def __init__(
        self, recorder: Recorder, function: Function, inputs: Sequence[Tensor | None]
    ) -> None:
        """Record.

        Args:
            recorder: whose memory is shared.
            function: what to record.
            inputs: of the kind to record it for.

        Raises:
            RuntimeError: it cannot be recorded.
        """
        self.recorder, self.function = recorder, function
        self.static = [None if value is None else value.detach().clone() for value in inputs]
        self.wanted = [needs_gradient(value) for value in inputs]
        self._graph: tuple[Tensor, list[Tensor]] | None = None

        backend = recorder.backend
        for _ in range(WARM_UPS):
            backend.warm_up(self._try_both)

        (self.output,), self._replay = backend.capture(self._forward)
        if any(self.wanted):
            self.output_gradient = torch.zeros_like(self.output)
            self.gradients, self._replay_backward = backend.capture(self._backward)

    def __call__(self, inputs: Sequence[Tensor | None]) -> Tensor:
        """Replay with other inputs."""
        if any(self.wanted):
            output: Tensor = Replayed.apply(self, *inputs)
            return output
        self.forward(inputs)
        return self.output.clone()

    def forward(self, inputs: Sequence[Tensor | None]) -> int:
        """Compute `output`; return the turn at which it was."""
        for place, value in zip(self.static, inputs, strict=True):
            if place is not None and value is not None:
                place.copy_(value.detach())
        self._replay()
        self.recorder.turn += 1
        return self.recorder.turn

    def backward(self, turn: int, gradient: Tensor, inputs: Sequence[Tensor | None]) -> None:
        """Compute `gradients` of the inputs that want one.

        Args:
            turn: what `forward` returned for these inputs.
            gradient: of the output.
            inputs: in case the forward pass must be repeated, since its memory was used for something else.
        """
        if turn != self.recorder.turn:
            self.forward(inputs)
        self.output_gradient.copy_(gradient)
        self._replay_backward()
        self.recorder.turn += 1

    def _forward(self) -> Sequence[Tensor]:
        if not any(self.wanted):
            with torch.no_grad():
                return [self.function(*self.static)]

        # Views, since the gradient of a leaf would go through a node that belongs to another stream.
        entries, varied = list(self.static), list[Tensor]()
        with torch.enable_grad():
            for number, value in enumerate(self.static):
                if value is not None and self.wanted[number]:
                    entry = value.detach().requires_grad_().view_as(value)
                    entries[number] = entry
                    varied.append(entry)
            output = self.function(*entries)

        self._graph = (output, varied)
        return [output.detach()]

    def _backward(self) -> Sequence[Tensor]:
        assert self._graph is not None
        (output, entries), self._graph = self._graph, None
        return torch.autograd.grad(output, entries, self.output_gradient)

    def _try_both(self) -> Sequence[Tensor]:
        results = self._forward()
        if any(self.wanted):
            self.output_gradient = torch.zeros_like(results[0])
            return self._backward()
        return results


class Replayed(torch.autograd.Function):
    """A recording with its backward pass."""

    @staticmethod
    def forward(ctx: Any, recording: Recording, *inputs: Tensor | None) -> Tensor:
        """Replay the forward pass."""
        ctx.recording, ctx.turn = recording, recording.forward(inputs)
        ctx.save_for_backward(*inputs)
        return recording.output.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Replay the backward pass."""
        recording: Recording = ctx.recording
        recording.backward(ctx.turn, gradient, ctx.saved_tensors)
        found = iter(recording.gradients)
        return (None, *(next(found).clone() if wanted else None for wanted in recording.wanted))


def needs_gradient(value: Tensor | None) -> bool:
    """Return whether a gradient in this input is wanted here."""
    return value is not None and value.requires_grad and torch.is_grad_enabled()


def kind(value: Tensor | None) -> Hashable:
    """Return what must be equal for two inputs to share a recording."""
    if value is None:
        return None
    return tuple(value.shape), value.dtype, value.device, needs_gradient(value)


def title(name: Hashable) -> str:
    """Return the first word of a name that may be a tuple, for a sentence."""
    return str(name[0] if isinstance(name, tuple) else name)


def cuda_recorder(device: torch.device) -> Recorder | None:
    """Return a recorder for a CUDA device; None for any other, where nothing can be recorded."""
    return Recorder(CudaGraphs(device)) if device.type == "cuda" else None

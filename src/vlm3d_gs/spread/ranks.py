"""The processes of one run, numbered from 0, and what they tell each other (torch.distributed: gloo, on cards NCCL).

Process 0 is the one that the user started. It writes, prints and saves; the others only compute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from vlm3d_gs.core.errors import NotFiniteError, ProcessError

LONGEST = timedelta(days=7)
"""A process that is alive is waited for, however long it takes, as for the viewer's pause. The dead are noticed."""
NAP_S, LONGEST_NAP_S = 5e-5, 2e-3
"""Sleep between two looks whether the others are there: first, and after some looks."""


class RunLeftError(Exception):
    """Another process has left the run on purpose: there is nothing to do for this one any more."""


@dataclass
class Ranks:
    """The processes of a run, as one of them sees them; a single one talks to nobody."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """How many there are."""
    check: Callable[[], None] = lambda: None
    """Called while others are waited for; raises if one is gone."""
    asked_to_stop: Callable[[], bool] = lambda: False
    """Whether this process has been asked to end the run."""
    is_stopping: bool = field(default=False, init=False)
    """Whether one of them was asked, as all know since the last `agree`."""
    is_connected: bool = field(default=False, init=False)
    """Whether rows are divided: between `connect` and `leave`."""

    def connect(self, meeting: Path, device: torch.device) -> None:
        """Meet the others; blocks until all are there.

        Args:
            meeting: a file that does not exist, in a folder of this run alone.
            device: of the tensors to exchange.
        """
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store = dist.FileStore(str(meeting), self.size)  # type: ignore[attr-defined]
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.size, timeout=LONGEST
        )
        self.is_connected = True

    def should_stop(self) -> bool:
        """Return whether to end after the present step: the same in all processes at the same place."""
        return self.is_stopping if self.is_connected else self.asked_to_stop()

    def agree(self, step: int, gaussians: int) -> None:
        """Wait for the others at the same place of the run, and learn whether one was asked to stop.

        Args:
            step: steps done.
            gaussians: in the scene.

        Raises:
            NotFiniteError: another process went back to an earlier step, which this one must do, too.
            RunLeftError: another process has left the run.
            ProcessError: another process is gone, or has another scene.
        """
        while True:
            rows = self._tell([int(self.asked_to_stop()), 0, step, gaussians])
            self.is_stopping = self.is_stopping or any(row[0] for row in rows)
            if any(row[1] for row in rows):
                self.is_connected = False
                raise RunLeftError
            first = min(row[2] for row in rows)
            if step > first:
                raise NotFiniteError(f"Another process went back to step {first}.")
            if all(row[2] == first for row in rows):
                break

        counts = [row[3] for row in rows]
        if len(set(counts)) > 1:
            raise ProcessError(
                f"The processes of this run have different scenes after step {step} ({counts} Gaussians), so it ends. "
                "--resume goes on from the last checkpoint. Please report this."
            )

    def leave(self) -> None:
        """Divide nothing any more; others that still wait in `agree` learn of it.

        The first process closes the connections. The others wait for their end, since one that closes its own while
        another still listens looks like a dead one.
        """
        if self.is_connected:
            self.is_connected = False
            with suppress(ProcessError, RuntimeError):  # they are gone already
                self._tell([0, 1, 0, 0])
        if self.rank == 0 and dist.is_initialized():
            dist.destroy_process_group()

    def shares(self, units: int, unit: int = 1) -> list[slice]:
        """Return which rows each process computes, of `units` times `unit` rows, whole units, as evenly as can be."""
        bounds = [units * rank // self.size * unit for rank in range(self.size + 1)]
        return [slice(*pair) for pair in pairwise(bounds)]

    def gathered(self, own: Tensor, shares: Sequence[slice]) -> Tensor:
        """Return the rows of all processes, in order; `own` are those of this one's share."""
        counts = [share.stop - share.start for share in shares]
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in counts]
        self._wait(lambda: dist.all_gather(parts, padded, async_op=True), own.device)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums of tensors over all processes: the same bytes in each of them."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self._wait(lambda: dist.all_reduce(flat, async_op=True), flat.device)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def _tell(self, numbers: list[int]) -> list[list[int]]:
        """Return the numbers of all processes."""
        own = torch.tensor(numbers)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        self._wait(lambda: dist.all_gather(parts, own, async_op=True), own.device)
        return [part.tolist() for part in parts]

    def _wait(self, begin: Callable[[], dist.Work | None], device: torch.device) -> None:
        """Begin an exchange and wait for it, so that signals and deaths are noticed meanwhile.

        On a GPU only the stream waits. There the others are known to be alive and at the same place: see `agree`.
        """
        try:
            work, nap_s = begin(), NAP_S
            assert work is not None
            while device.type == "cpu" and not work.is_completed():
                self.check()
                time.sleep(nap_s)
                nap_s = min(1.2 * nap_s, LONGEST_NAP_S)
            work.wait()
        except RuntimeError as error:
            self.check()
            raise ProcessError(
                f"Another process of this run does not answer: {str(error).splitlines()[0]}. --resume goes on from the "
                "last checkpoint."
            ) from error


_joined: ContextVar[Ranks | None] = ContextVar("joined", default=None)


def joined() -> Ranks | None:
    """Return the processes that this run is divided among; None for a run of one."""
    return _joined.get()


@contextmanager
def join(ranks: Ranks) -> Iterator[Ranks]:
    """Divide what is built inside the block among processes."""
    token = _joined.set(ranks if ranks.size > 1 else None)
    try:
        yield ranks
    finally:
        ranks.leave()
        _joined.reset(token)

"""Rows of the log whose numbers are still on a device: fetched together, so that a GPU is waited for once a round.

Whether the scene is finite comes with them, since each render would have to wait to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from vlm3d_gs.core.errors import NotFiniteError
from vlm3d_gs.core.gaussians import validate
from vlm3d_gs.optimize.state import TrainState

MOST_ROWS = 16
"""Kept back at most, where no round ends."""


class LogRows:
    """The scalars of the last steps."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, dict[str, float | Tensor]]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, step: int, scalars: Mapping[str, float | Tensor]) -> None:
        """Keep a row back; tensors have one element each."""
        self._rows.append((step, dict(scalars)))

    def fetch(self, state: TrainState) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield all rows as numbers, in order, and forget them; a device is waited for once.

        Raises:
            NotFiniteError: the scene is not finite; after the last row. Asked here on a GPU only, since on the CPU
                every render asks.
        """
        rows, self._rows = self._rows, []

        # Everything in one transfer, whether the scene is finite as its last number.
        waiting = [value for _, row in rows for value in row.values() if isinstance(value, Tensor)]
        finite = state.finite_so_far()
        if finite is not None:
            waiting.append(finite)
        numbers = iter(_fetched(waiting))

        for step, row in rows:
            yield (
                step,
                {
                    name: next(numbers) if isinstance(value, Tensor) else value
                    for name, value in row.items()
                },
            )

        if finite is not None and not next(numbers):
            validate(state.optimizer.gaussians)  # says which values
            raise NotFiniteError(
                f"Values of the scene became NaN or infinite before step {state.step}, in Gaussians that "
                "are removed by now. Lower the learning rates."
            )

    def are_due(self, state: TrainState) -> bool:
        """Return whether to fetch: at the end of a round, after `MOST_ROWS`, on the CPU at each step."""
        if not state.is_waited_for:
            return True
        round_ended = state.pool.rounds > 0 and state.pool.is_round_over
        return round_ended or len(self) >= MOST_ROWS


def _fetched(waiting: Sequence[Tensor]) -> list[float]:
    """Return scalars of one device, wherever, as numbers, by one transfer."""
    if not waiting:
        return []
    device = waiting[0].device
    together = torch.stack([value.detach().to(device).double() for value in waiting])
    numbers: list[float] = together.tolist()
    return numbers

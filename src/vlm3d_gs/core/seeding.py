"""Many independent streams of random numbers from one seed, and their exact state for checkpoints.

Each consumer draws from a generator with its own name, so that adding a draw in one place (say, a
preview) never changes the numbers of another (say, the cameras).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vlm3d_gs.core.errors import CheckpointError


def stream_seed(seed: int, name: str) -> int:
    """Return the seed of a named stream, in [0, 2**63), the same on every machine and Python."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator for one named stream of a run.

    Args:
        seed: the run's seed.
        name: its consumer, e.g. `cameras`; equal names give equal numbers.
        device: where the numbers are drawn; CPU and CUDA streams differ.
    """
    return torch.Generator(device=device).manual_seed(stream_seed(seed, name))


def generators(
    seed: int, names: Iterable[str], device: torch.device | str = "cpu"
) -> dict[str, torch.Generator]:
    """Return one generator per name, all on one device."""
    return {name: generator(seed, name, device) for name in names}


def capture_states(streams: Mapping[str, torch.Generator]) -> dict[str, Tensor]:
    """Return the state of each stream as a uint8 tensor on the CPU, as a checkpoint stores it."""
    return {name: stream.get_state().clone() for name, stream in streams.items()}


def restore_states(streams: Mapping[str, torch.Generator], states: Mapping[str, Tensor]) -> None:
    """Set each stream to a captured state, in place.

    Raises:
        CheckpointError: the names differ, so some stream would silently start over.
    """
    if set(streams) != set(states):
        raise CheckpointError(
            f"The checkpoint holds random streams {sorted(states)}, this run needs "
            f"{sorted(streams)}. It was written by another version: start over with --overwrite."
        )
    for name, stream in streams.items():
        stream.set_state(states[name].to(device="cpu", dtype=torch.uint8))

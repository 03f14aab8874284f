"""Checkpoints: one safetensors file, whole or absent, from which a run resumes exactly.

Tensors by name (parameters, Adam moments, states of the random streams as uint8) and a JSON header
with the step and whatever else the caller must remember. No pickle. Knows nothing of what the
tensors mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlm3d_gs.core.errors import CheckpointError
from vlm3d_gs.core.files import atomic_path

FORMAT = "vlm3d-gs-checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint."""

    step: int
    """Steps done when it was written."""
    tensors: dict[str, Tensor]
    """Name -> tensor on the CPU, exactly as saved."""
    meta: dict[str, Any]
    """Plain JSON data from the caller that saved it."""


def save_checkpoint(
    path: str | Path, *, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Write a checkpoint; an older one is replaced only when the new one is complete.

    Args:
        path: the file; its folder must exist.
        step: steps done.
        tensors: name -> tensor, any dtype, shape and device; detached and copied to the CPU.
        meta: JSON-compatible data, e.g. the config.

    Raises:
        ExportError: the folder does not exist.

    Synchronises the device that the tensors are on.
    """
    # safetensors refuses tensors that share storage, hence the clone.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "step": str(step),
        "meta": json.dumps(dict(meta), allow_nan=False),
    }
    with atomic_path(path) as temporary:
        save_file(copies, temporary, metadata=header)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint into CPU memory.

    Raises:
        CheckpointError: no such file, truncated or otherwise unreadable, not one of ours, or
            written by another format version.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"No checkpoint at {path}. Start over with --overwrite.")

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header: dict[str, str] = file.metadata() or {}
            _expect_ours(path, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return Checkpoint(int(header["step"]), tensors, json.loads(header["meta"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"Cannot read the checkpoint {path}: {error}. It is truncated or damaged; start over "
            f"with --overwrite."
        ) from error


def _expect_ours(path: str | Path, header: Mapping[str, str]) -> None:
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of vlm3d-gs.")
    if header.get("version") != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path} has checkpoint format {header.get('version')}, but this version reads "
            f"{FORMAT_VERSION}. Use the version that wrote it, or start over with --overwrite."
        )

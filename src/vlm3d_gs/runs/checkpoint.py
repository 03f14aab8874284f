"""Checkpoints: one safetensors file, whole or absent, from which a run resumes exactly.

Tensors by name (parameters, Adam moments, states of the random streams as uint8) and a JSON header
with the step and whatever else the caller must remember. No pickle. A checksum covers all of it, so
that what was damaged on the disk is not taken for a run. The checkpoint before the last is kept.
Knows nothing of what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlm3d_gs.core.errors import CheckpointError, WriteError
from vlm3d_gs.core.files import atomic_path, refusal, writing
from vlm3d_gs.runs.folder import PREVIOUS

FORMAT = "vlm3d-gs-checkpoint"
FORMAT_VERSION = 2


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
    """Write a checkpoint; an older one is kept beside it, and gives way only when the new one is complete.

    Args:
        path: the file; its folder must exist.
        step: steps done.
        tensors: name -> tensor, any dtype, shape and device; detached and copied to the CPU.
        meta: JSON-compatible data, e.g. the config.

    Raises:
        ExportError: the folder does not exist.
        WriteError: the file system refuses.

    Synchronises the device that the tensors are on.
    """
    target = Path(path)
    # safetensors refuses tensors that share storage, hence the clone.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "step": str(step),
        "meta": json.dumps(dict(meta), allow_nan=False),
    }
    header["sha256"] = _digest(header, copies)

    with atomic_path(target) as temporary:
        try:
            save_file(copies, temporary, metadata=header)
        except SafetensorError as error:
            # The library tells the system's error as text only.
            number = re.search(r"os error (\d+)", str(error))
            cause = OSError(int(number[1]), "") if number else OSError(str(error))
            raise WriteError(refusal(target, cause)) from error
        if target.is_file():
            with writing(target):
                os.replace(target, target.with_name(PREVIOUS))


def load_newest(path: str | Path) -> tuple[Checkpoint, str]:
    """Read a checkpoint, or the one before it if that cannot be read.

    Returns:
        The checkpoint, and what the user should know; empty if all is well.

    Raises:
        CheckpointError: neither can be read; the message says why the newer one cannot.
    """
    try:
        return load_checkpoint(path), ""
    except CheckpointError as error:
        before = Path(path).with_name(PREVIOUS)
        if not before.is_file():
            raise
        try:
            older = load_checkpoint(before)
        except CheckpointError:
            raise CheckpointError(str(error)) from None
    what = "is damaged" if Path(path).is_file() else "is not there"
    return older, f"{path} {what}; the run goes on from the one before it, of step {older.step}"


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint into CPU memory.

    Raises:
        CheckpointError: no such file, truncated or otherwise damaged, not one of ours, or
            written by another format version.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"No checkpoint at {path}. Start over with --overwrite.")

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header: dict[str, str] = file.metadata() or {}
            _expect_ours(path, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if header.get("sha256") != _digest(header, tensors):
            raise ValueError("its checksum is wrong")
        return Checkpoint(int(header["step"]), tensors, json.loads(header["meta"]))
    except CheckpointError:
        raise
    except Exception as error:
        # A damaged header leads the libraries anywhere: whatever they raise, the cause is the file.
        reason = str(error).partition("\n")[0][:200]
        raise CheckpointError(
            f"Cannot read the checkpoint {path}: {reason}. It is truncated or damaged; start over "
            f"with --overwrite."
        ) from error


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the whole content but for itself."""
    digest = hashlib.sha256()
    for name in sorted(header.keys() - {"sha256"}):
        digest.update(f"{name}\0{header[name]}\0".encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        flat = value.reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _expect_ours(path: str | Path, header: Mapping[str, str]) -> None:
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of vlm3d-gs.")
    if header.get("version") != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{path} has checkpoint format {header.get('version')}, but this version reads "
            f"{FORMAT_VERSION}. Use the version that wrote it, or start over with --overwrite."
        )

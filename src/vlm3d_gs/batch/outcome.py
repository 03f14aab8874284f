"""What became of a prompt: the row of the manifest, and the sidecar in the asset's folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from vlm3d_gs.batch.items import Item
from vlm3d_gs.core.files import TEMPORARY, writing

SIDECAR = "asset.json"
"""In an asset's folder, written last: it says that the asset is whole."""
Status = Literal["done", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the manifest."""

    id: str
    """Of the item."""
    prompt: str
    """The sentence."""
    seed: int
    """The seed of the asset: with several, the one that was picked."""
    status: Status
    """`stopped` goes on with the same command, `failed` with --retry-failed."""
    seconds: float
    """Wall time of the last attempt."""
    folder: str = ""
    """Of the asset, relative to that of the batch."""
    files: dict[str, str] = field(default_factory=dict)
    """Name of a product in the folder -> SHA-256, hexadecimal."""
    held_out: float | None = None
    """The critic's verdict on questions that were not optimised, mean log-odds; None without a critic."""
    seeds: int = 1
    """How many seeds competed."""
    gaussians: int | None = None
    """In the scene."""
    steps: int | None = None
    """That the run did."""
    kind: str = ""
    """Of a failure: the class of the error, or `crash`, `hang`."""
    reason: str = ""
    """Of a failure, for a person."""
    tries: int = 1
    """How often it was begun since the command was given."""
    content: str = ""
    """Hash of all that decides the asset."""

    def plain(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Outcome:
        """Return what `plain` gave, after a way through JSON; unknown names are left out.

        Raises:
            TypeError: a name is missing.
        """
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


COLUMNS = {
    **dict.fromkeys(("id", "prompt"), "string"),
    "seed": "int64",
    "status": "string",
    "seconds": "float64",
    **dict.fromkeys(("folder", "files", "sha256"), "string"),
    "held_out": "float64",
    **dict.fromkeys(("seeds", "gaussians", "steps"), "int64"),
    **dict.fromkeys(("kind", "reason"), "string"),
    "tries": "int64",
    "content": "string",
}
"""Columns of manifest.parquet and their types; `files` and `sha256` are separated by spaces, in the same order."""


def as_columns(outcome: Outcome) -> dict[str, Any]:
    """Return a row of manifest.parquet."""
    row = outcome.plain()
    return row | {"files": " ".join(outcome.files), "sha256": " ".join(outcome.files.values())}


def failure(
    item: Item, kind: str, reason: str, seconds: float, *, status: Status = "failed"
) -> Outcome:
    """Return the outcome of a prompt without an asset."""
    return Outcome(
        item.id,
        item.prompt,
        item.seed,
        status,
        round(seconds, 3),
        str(item.folder),
        kind=kind,
        reason=reason,
        content=item.content,
    )


def digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by their names in the folder, in order of names."""
    found = {}
    for path in sorted(files):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[path.relative_to(folder).as_posix()] = digest
    return found


def write_sidecar(folder: Path, outcome: Outcome) -> None:
    """Say in an asset's folder that it is whole.

    Not flushed to the disk: if power fails before it is there, the asset is made again.

    Raises:
        WriteError: the file system refuses.
    """
    target = folder / SIDECAR
    temporary = folder / f"{TEMPORARY}{SIDECAR}"
    with writing(target):
        temporary.write_text(json.dumps(outcome.plain(), indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, target)


def read_sidecar(folder: Path, content: str) -> Outcome | None:
    """Return what a whole asset's folder says of it; None if it is not whole, or was made of something else.

    Args:
        folder: of the asset.
        content: hash of what is asked for.
    """
    try:
        outcome = parse_sidecar((folder / SIDECAR).read_bytes(), content)
    except OSError:
        return None
    whole = outcome is not None and all((folder / name).is_file() for name in outcome.files)
    return outcome if whole else None


def parse_sidecar(data: bytes, content: str) -> Outcome | None:
    """Return what a sidecar says; None if it is damaged, or of something else.

    Args:
        data: its bytes.
        content: hash of what is asked for.
    """
    try:
        outcome = Outcome.from_plain(json.loads(data))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return outcome if outcome.status == "done" and outcome.content == content else None

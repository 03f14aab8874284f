"""Checks of what a file claims about itself against its size, before memory is allocated.

Twelve bytes of a header can claim two billion Gaussians. So every reader computes how many bytes
its header promises and calls one of these functions first. Compressed files may grow when they are
unpacked, but only as far as a real splat can.
"""

from __future__ import annotations

from pathlib import Path

from vlm3d_gs.core.errors import InputFileError

FREE_BYTES = 64 * 2**20
"""Size that any compressed file may unpack to."""
MAX_EXPANSION = 200
"""Bytes that each further byte of a file may unpack to; real splats stay below 20."""


def file_bytes(source: Path) -> bytes:
    """Return a file's content.

    Raises:
        InputFileError: there is no such file, or it cannot be read.
    """
    expect_file(source)
    try:
        return source.read_bytes()
    except OSError as error:
        raise InputFileError(f"{source} cannot be read: {error}") from error


def expect_file(source: Path) -> None:
    """Require that a path is a file.

    Raises:
        InputFileError: it is not.
    """
    if not source.is_file():
        raise InputFileError(f"There is no file {source}.")


def expect_present(source: Path, promised: str, needed: int, present: int) -> None:
    """Require that the bytes that a header promises are there.

    Args:
        source: the file.
        promised: what the header promises, for the message: "10 Gaussians".
        needed: how many bytes that takes.
        present: how many there are.

    Raises:
        InputFileError: there are fewer.
    """
    if needed > present:
        raise InputFileError(
            f"{source} is truncated: its header promises {promised} ({needed} bytes), the file "
            f"holds {present} bytes after the header. Copy or export it again."
        )


def expect_plausible(source: Path, promised: str, needed: int, compressed: int) -> None:
    """Require that a file is long enough to unpack to what its header promises.

    Args:
        source: the file.
        promised: what the header promises, for the message.
        needed: how many bytes that takes unpacked.
        compressed: how many bytes the file holds.

    Raises:
        InputFileError: no splat is compressed that well.
    """
    if needed > FREE_BYTES + MAX_EXPANSION * compressed:
        raise InputFileError(
            f"{source} promises {promised} ({needed} bytes unpacked) but is only {compressed} bytes "
            "long: it is damaged, or made to exhaust memory."
        )

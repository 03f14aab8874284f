"""Checks of what a file claims about itself against its size, before memory is allocated.

Twelve bytes of a header can claim two billion Gaussians. So every reader computes how many bytes
its header promises and calls one of these functions first. Compressed files may grow when they are
unpacked, but only as far as a real splat can.
"""

from __future__ import annotations

from pathlib import Path

from vlm3d_gs.core.errors import InputFileError

FREE_BYTES = 64 * 2**20
"""Size that any file may unpack to."""
MAX_EXPANSION = 200
"""Bytes that each further byte of a compressed file may unpack to; real splats stay below 50."""


def gaussian_bytes(coefficients: int) -> int:
    """Return what a Gaussian takes once it is read, float32, with `coefficients` harmonics a channel."""
    return 4 * (3 + 3 + 4 + 1 + 3 * coefficients)


class Budget:
    """What a file may unpack to, summed over all of its parts, so that many modest parts cannot exhaust memory.

    Args:
        source: the file.
        length: how many bytes it holds.
        expansion: bytes that each of them may unpack to.
    """

    def __init__(self, source: Path, length: int, expansion: int = MAX_EXPANSION) -> None:
        self._source = source
        self._length = length
        self._left = FREE_BYTES + expansion * length
        self._promised = 0

    def spend(self, promised: str, needed: int) -> None:
        """Take `needed` bytes for what a part promises.

        Raises:
            InputFileError: no splat of the file's length holds so much; the message names the last part.
        """
        self._promised += needed
        if self._promised > self._left:
            raise InputFileError(
                f"{self._source} promises {promised} ({self._promised} bytes unpacked with all before) "
                f"but is only {self._length} bytes long: it is damaged, or made to exhaust memory."
            )


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
    Budget(source, compressed).spend(promised, needed)

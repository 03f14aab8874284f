"""A codec: what a format's file offers to the rest of the package, and how it is loaded.

A codec's file is imported when the format is first used, so that reading a PLY loads neither the
image library of SOG nor that of USD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.options import ReadOptions, SplatOptions
from vlm3d_gs.formats.registry import SplatFormat
from vlm3d_gs.formats.stream import SplatStream

SaveParts = Callable[[Sequence[tuple[str, SplatArrays]], Path], None]
"""Writes splats that are in one of the format's axes, each under its name."""


@dataclass(frozen=True, slots=True)
class Codec:
    """Reads the bytes of one format, and writes them where its row of the table has suffixes to write."""

    open: Callable[[Path, ReadOptions], SplatStream]
    """Return what a file holds, in the file's axes, even values that are not finite."""
    save: Callable[[SplatStream, Path, SplatOptions], None] | None = None
    """Write a splat that is in one of the format's axes, piece by piece; None: it is only read."""
    accepts: Callable[[Path], bool] | None = None
    """Return whether a file with the format's first bytes is its own; None: all are."""
    save_parts: SaveParts | None = None
    """Write several named splats into one file, apart from each other; None: the format cannot."""

    @classmethod
    def whole(
        cls,
        load: Callable[[Path, ReadOptions], SplatArrays],
        save: Callable[[SplatArrays, Path, SplatOptions], None],
        accepts: Callable[[Path], bool] | None = None,
        save_parts: SaveParts | None = None,
    ) -> Codec:
        """Return the codec of a format that is read and written in memory."""
        return cls(
            open=lambda source, options: SplatStream.of_arrays(load(source, options)),
            save=lambda splat, path, options: save(splat.gather(), path, options),
            accepts=accepts,
            save_parts=save_parts,
        )

    @classmethod
    def plain(
        cls, load: Callable[[Path], SplatArrays], save: Callable[[SplatArrays, Path], None]
    ) -> Codec:
        """Return the codec of a format that has no options, and is read and written in memory."""
        return cls.whole(lambda source, _: load(source), lambda arrays, path, _: save(arrays, path))


def codec_of(row: SplatFormat) -> Codec:
    """Return the codec of a format, importing its file."""
    codec: Codec = import_module(f"vlm3d_gs.formats.{row.module}").CODEC
    return codec

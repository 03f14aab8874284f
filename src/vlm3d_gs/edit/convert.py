"""Converting splats with edits between reading and writing, several into one, and through pipes."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.edit.settings import Edits
from vlm3d_gs.formats.arrays import turned
from vlm3d_gs.formats.convert import convert, open_splat, sound_mask
from vlm3d_gs.formats.options import Frame, SplatOptions
from vlm3d_gs.formats.registry import format_named, format_of_suffix
from vlm3d_gs.formats.stream import SplatStream, joined

PIPE = "-"
"""What stands for standard input and output."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted."""

    target: str
    """As given; "-" is standard output."""
    count: int
    """Gaussians written."""
    dropped: int
    """Gaussians read and not written."""
    bytes: int
    """Length of the file."""


def describe(done: Conversion) -> str:
    """Return what happened in one line."""
    dropped = f", {done.dropped} dropped" if done.dropped else ""
    return (
        f"written to {done.target}: {done.count} Gaussians{dropped}, {done.bytes / 2**20:.2f} MiB"
    )


def convert_edited(
    source: str | Path,
    target: str | Path,
    edits: Edits,
    options: SplatOptions | None = None,
    *,
    merge: Sequence[str | Path] = (),
    source_format: str | None = None,
    target_format: str | None = None,
    frame: Frame | None = None,
    as_points: bool = False,
    drop_broken: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Read splats, edit them, and write one file or to standard output.

    Args:
        source: any splat file; "-" is standard input, kept in a temporary file.
        target: what to write; "-" is standard output.
        edits: what is done between, in the axes of `source`.
        options: of the writer.
        merge: splats that are joined to it before the edits, turned into its axes.
        source_format: name of the source's format; None goes by its first bytes.
        target_format: name of the target's format; None goes by its suffix.
        frame: axes of `source`, as in `formats.convert.read_splat`.
        as_points: see there.
        drop_broken: as in `formats.convert.convert`.
        overwrite: replace `target` if it exists.

    Raises:
        ConfigError: an unknown format, or standard output without a format.
        ExportError: nothing is left, or as `formats.convert.convert`.
        InputFileError: as there.
    """
    if str(target) == PIPE and target_format is None:
        raise ConfigError("Standard output needs a format: give --to, for example --to spz.")
    source_row = None if source_format is None else format_named(source_format)
    row = (
        format_of_suffix(target)
        if target_format is None
        else format_named(target_format, to_write=True)
    )

    read = 0

    def edit(stream: SplatStream) -> SplatStream:
        nonlocal read
        others = [open_splat(path) for path in merge]
        if drop_broken:
            others = [other.select(sound_mask(other)) for other in others]
        read = len(stream) + sum(map(len, others))
        return _edited(merged(stream, others), edits)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = Path(source)
        if str(source) == PIPE:
            place = _kept_input(folder, source_row.all_suffixes[0] if source_row else "")

        piped = str(target) == PIPE
        goal = folder / ("stdout" + row.suffixes[0]) if piped else Path(target)
        done = convert(
            place,
            goal,
            options,
            source_row=source_row,
            target_row=row,
            frame=frame,
            as_points=as_points,
            drop_broken=drop_broken,
            overwrite=overwrite,
            edit=edit,
        )
        size = goal.stat().st_size
        if piped:
            with goal.open("rb") as written:
                shutil.copyfileobj(written, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    return Conversion(str(target), len(done), read - len(done), size)


def _edited(stream: SplatStream, edits: Edits) -> SplatStream:
    """Apply the edits; they are functions of Gaussians, and torch takes seconds to load."""
    if edits == Edits():
        return stream
    from vlm3d_gs.edit.apply import edited

    return edited(stream, edits)


def _kept_input(folder: Path, suffix: str) -> Path:
    """Write standard input into a folder, and return the file."""
    place = folder / f"stdin{suffix}"
    with place.open("wb") as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
    return place


def merged(stream: SplatStream, others: Sequence[SplatStream]) -> SplatStream:
    """Return several splats as one, in the axes of the first and with the highest degree of all."""
    if not others:
        return stream

    def in_its_axes(other: SplatStream) -> SplatStream:
        if other.frame == stream.frame:
            return other
        return other.mapped(lambda piece: turned(piece, stream.frame), frame=stream.frame)

    degree = max(splat.degree for splat in (stream, *others))
    return joined([in_its_axes(splat).with_degree(degree) for splat in (stream, *others)])

"""Reading any splat file, writing any, and converting one into another.

The first bytes of a file decide what it is, whatever it is called; only .splat, which has no
signature, goes by its name. The suffix decides what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.errors import ConfigError, ExportError, InputFileError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.notices import notice
from vlm3d_gs.formats.arrays import (
    SplatArrays,
    expect_finite_splat,
    expect_sane_scales,
    surely_finite,
    turned,
)
from vlm3d_gs.formats.claims import expect_file, gaussian_bytes
from vlm3d_gs.formats.codec import codec_of
from vlm3d_gs.formats.losses import of_reading, of_writing
from vlm3d_gs.formats.options import Frame, ReadOptions, SplatOptions
from vlm3d_gs.formats.registry import (
    FORMATS,
    MAGIC_BYTES,
    WRITTEN,
    SplatFormat,
    format_of_suffix,
)
from vlm3d_gs.formats.stream import SplatStream

if TYPE_CHECKING:
    from vlm3d_gs.core.gaussians import Gaussians

HELD_BYTES = 2**29
"""Size of a splat that is kept in memory while it is written, float32."""


def format_of_file(path: str | Path) -> SplatFormat:
    """Return the format that a file is in, by its first bytes; a .splat by its suffix.

    Raises:
        InputFileError: no such file, or it begins like no splat.
    """
    source = Path(path)
    if source.is_dir() and (source / "meta.json").is_file():
        return next(row for row in FORMATS if row.name == "sog")
    expect_file(source)
    with source.open("rb") as stream:
        start = stream.read(MAGIC_BYTES)
    if start.lstrip()[:1] == b"{":
        start = start.lstrip()  # JSON may begin with any blanks

    for row in FORMATS:
        if start.startswith(row.magic):
            accepts = codec_of(row).accepts
            if accepts is None or accepts(source):
                return row

    for row in FORMATS:
        if not row.magic and source.name.lower().endswith(row.all_suffixes):
            return row

    raise InputFileError(
        f"{source} is no splat that this program reads: it begins with {start!r}. "
        f"Known: {', '.join(suffix for row in FORMATS for suffix in row.all_suffixes)}."
    )


def load_arrays(
    path: str | Path, *, frame: Frame | None = None, as_points: bool = False
) -> SplatArrays:
    """Read any splat file as arrays in its own axes, even one with broken values.

    Args:
        path: the file.
        frame: axes of the file where the caller knows better than the file and its format's custom.
        as_points: read a PLY as a point cloud.

    Raises:
        InputFileError: no such file, unknown format, truncated or damaged.
        MissingDependencyError: a USD file without usd-core.
    """
    return open_splat(path, frame=frame, as_points=as_points).gather()


def open_splat(
    path: str | Path,
    *,
    row: SplatFormat | None = None,
    frame: Frame | None = None,
    as_points: bool = False,
) -> SplatStream:
    """Open any splat file as a stream of pieces in its own axes, even one with broken values.

    Args:
        path: the file.
        row: its format; None goes by its first bytes.
        frame: as in `load_arrays`.
        as_points: as in `load_arrays`.

    Raises:
        ConfigError: points of a file that is no PLY.
        InputFileError: as `load_arrays`.
        MissingDependencyError: as `load_arrays`.
    """
    source = Path(path)
    try:
        row = row or format_of_file(source)
        if as_points and row.name != "ply":
            raise ConfigError(f"Point clouds are read from PLY files; {source} is {row.title}.")
        stream = codec_of(row).open(source, ReadOptions(frame, as_points))
    except OSError as error:
        raise InputFileError(f"{source} cannot be read: {error}") from error
    except MemoryError as error:
        raise InputFileError(f"{source} needs more memory than there is.") from error
    if frame is None:
        return stream
    return stream.mapped(lambda piece: replace(piece, frame=frame), frame=frame)


def read_splat(
    path: str | Path, *, frame: Frame | None = None, as_points: bool = False
) -> Gaussians:
    """Read any splat file as Gaussians of our world.

    Args:
        path: the file; its first bytes choose the format.
        frame: axes of the file where the caller knows better, one of `options.AXES`: `rdf` (x right,
            y down, z away), `rub` (x right, y up, z towards the viewer), `world` (our own).
        as_points: read a PLY as a point cloud: a ball for each point.

    Returns:
        Float32 Gaussians on the CPU.

    Raises:
        InputFileError: as `load_arrays`, or a value is not finite.
        MissingDependencyError: a USD file without usd-core.
    """
    # Torch takes longer to load than most files to convert: Gaussians need it, files alone do not.
    from vlm3d_gs.formats.world import as_gaussians

    stream = open_splat(path, frame=frame, as_points=as_points)
    arrays = _in_frame(stream, "world", Path(path)).gather()
    _say(f"{path}", of_reading(SplatStream.of_arrays(arrays)))
    return as_gaussians(arrays)


def read_as(path: str | Path, reading: ReadOptions | None) -> Gaussians:
    """Read a splat file as `read_splat` does, with the options in one record; None for the defaults."""
    options = reading or ReadOptions()
    return read_splat(path, frame=options.frame, as_points=options.as_points)


def write_splat(
    gaussians: Gaussians, path: str | Path, options: SplatOptions | None = None
) -> None:
    """Write a splat file, whole or not at all; the suffix chooses the format.

    Args:
        gaussians: N >= 1 finite Gaussians of our world.
        path: the file, ending in one of `SPLAT_SUFFIXES`; replaced if it exists.
        options: None for the defaults.

    Raises:
        ExportError: unknown suffix, nothing to write, values that are not finite or beyond the
            format's range, or the folder does not exist.
        ConfigError: an option that does not exist.
        MissingDependencyError: a USD file without usd-core.
    """
    from vlm3d_gs.formats.world import expect_writable, world_arrays

    chosen = options or SplatOptions()
    row = format_of_suffix(path)
    expect_writable(gaussians)
    frame = _frame_for(row, chosen)
    stream = SplatStream.of_arrays(world_arrays(gaussians))
    _save(stream.mapped(lambda piece: turned(piece, frame), frame=frame), row, Path(path), chosen)


def holds_parts(path: str | Path) -> bool:
    """Return whether the format of a suffix can hold objects apart, as `write_objects` writes them."""
    return codec_of(format_of_suffix(path)).save_parts is not None


def write_objects(objects: Mapping[str, Gaussians], path: str | Path) -> None:
    """Write the objects of a scene into one file, a node for each in glTF and a prim for each in USD.

    Args:
        objects: Gaussians of each, in place, by name.
        path: the file; .glb or one of USD's suffixes.

    Raises:
        ExportError: a suffix whose format has no parts, or as `write_splat`.
        MissingDependencyError: as `write_splat`.
    """
    from vlm3d_gs.formats.world import expect_writable, world_arrays

    row = format_of_suffix(path)
    save = codec_of(row).save_parts
    if save is None:
        able = [other.suffixes[0] for other in WRITTEN if codec_of(other).save_parts is not None]
        raise ExportError(f"{row.name} files hold no separate objects. Use {' or '.join(able)}.")

    frame, parts = _frame_for(row, SplatOptions()), []
    for name, gaussians in objects.items():
        expect_writable(gaussians)
        parts.append((name, turned(world_arrays(gaussians), frame)))
    with atomic_path(path) as temporary:
        save(parts, temporary)


def convert(
    source: str | Path,
    target: str | Path,
    options: SplatOptions | None = None,
    *,
    source_row: SplatFormat | None = None,
    target_row: SplatFormat | None = None,
    frame: Frame | None = None,
    as_points: bool = False,
    drop_broken: bool = False,
    overwrite: bool = False,
    edit: Callable[[SplatStream], SplatStream] | None = None,
) -> SplatStream:
    """Read one splat file and write another.

    Args:
        source: any splat file.
        target: what to write; the suffix chooses the format.
        options: of the writer.
        source_row: format of `source`; None goes by its first bytes.
        target_row: format of `target`; None goes by its suffix.
        frame: axes of `source`, as in `read_splat`.
        as_points: as in `read_splat`.
        drop_broken: skip Gaussians with NaN or infinite values instead of refusing the file.
        overwrite: replace `target` if it exists.
        edit: what is done with the splat between, in the axes of `source`.

    Returns:
        What was written, in the axes of `target`, before any rounding by the format.

    Raises:
        ExportError: `target` exists, or as `write_splat`.
        InputFileError: as `read_splat`.
    """
    chosen = options or SplatOptions()
    row = target_row or format_of_suffix(target)
    target_frame = _frame_for(row, chosen)
    if Path(target).exists() and not overwrite:
        raise ExportError(f"{target} exists. Give --overwrite to replace it, or another name.")

    stream = open_splat(source, row=source_row, frame=frame, as_points=as_points)
    remarks = of_reading(stream)
    if drop_broken:
        sound = sound_mask(stream)
        remarks.append(f"{int((~sound).sum())} of {len(sound)} Gaussians broken and dropped")
        stream = stream.select(sound)
    _say(f"{source}", remarks)
    if edit is not None:
        stream = edit(_checked(stream, Path(source)))

    ready = _in_frame(stream, target_frame, Path(source))
    _save(ready, row, Path(target), chosen)
    return ready


def sound_mask(stream: SplatStream) -> NDArray[np.bool_]:
    """Return [N], whether the numbers of a Gaussian are sound."""
    return np.concatenate([np.zeros(0, bool), *stream.each(SplatArrays.sound)])


def _in_frame(stream: SplatStream, frame: Frame, source: Path) -> SplatStream:
    """Return a checked splat in other axes."""
    return _checked(stream, source).mapped(lambda piece: turned(piece, frame), frame=frame)


def _checked(stream: SplatStream, source: Path) -> SplatStream:
    """Return a splat whose pieces raise if they hold values that are not sound."""
    expect_finite_splat(0, len(stream), source)

    def checked(piece: SplatArrays) -> SplatArrays:
        if not surely_finite(piece) and not piece.sound().all():
            # The message counts them in the whole file.
            expect_finite_splat(int((~sound_mask(stream)).sum()), len(stream), source)
        return piece

    return stream.mapped(checked)


def _save(stream: SplatStream, row: SplatFormat, path: Path, options: SplatOptions) -> None:
    """Write a splat that is in the axes of a format."""
    if options.sh_degree is not None:
        stream = stream.with_degree(options.sh_degree)
    # A writer goes over the pieces several times: what fits is read and turned once.
    if len(stream) * gaussian_bytes((stream.degree + 1) ** 2) <= HELD_BYTES:
        stream = SplatStream.of_arrays(stream.gather())
    losses = of_writing(stream, row)
    kept = stream.with_degree(min(row.sh_degree, stream.degree))
    save = codec_of(row).save
    assert save is not None  # the table says which formats are written
    with atomic_path(path) as temporary:
        save(kept.mapped(expect_sane_scales), temporary, options)
    _say(f"lost in {path}", losses)


def _say(subject: str, findings: list[str]) -> None:
    """Tell whoever listens, in one line; see `core.notices`."""
    if findings:
        notice(f"{subject}: {'; '.join(findings)}")


def _frame_for(row: SplatFormat, options: SplatOptions) -> Frame:
    """Return the axes that a file is written in."""
    if options.frame is None:
        return row.frame
    if options.frame not in row.frames:
        raise ConfigError(
            f"The axes of a {row.title} file must be {' or '.join(row.frames)}, got {options.frame!r}."
        )
    return options.frame

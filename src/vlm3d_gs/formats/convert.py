"""Reading any splat file, writing any, and converting one into another.

The first bytes of a file decide what it is, whatever it is called; only .splat, which has no
signature, goes by its name. The suffix decides what is written.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vlm3d_gs.core.errors import ExportError, InputFileError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.arrays import SplatArrays, change_frame, to_arrays, to_gaussians
from vlm3d_gs.formats.claims import expect_file
from vlm3d_gs.formats.codec import codec_of
from vlm3d_gs.formats.options import Frame, SplatOptions, SpzFrame
from vlm3d_gs.formats.registry import (
    FORMATS,
    MAGIC_BYTES,
    SPLAT_SUFFIXES,
    SplatFormat,
    format_of_suffix,
)


def format_of_file(path: str | Path) -> SplatFormat:
    """Return the format that a file is in, by its first bytes; a .splat by its suffix.

    Raises:
        InputFileError: no such file, or it begins like no splat.
    """
    source = Path(path)
    expect_file(source)
    with source.open("rb") as stream:
        start = stream.read(MAGIC_BYTES)

    for row in FORMATS:
        if start.startswith(row.magic):
            accepts = codec_of(row).accepts
            if accepts is None or accepts(source):
                return row

    for row in FORMATS:
        if not row.magic and source.name.lower().endswith(row.suffixes):
            return row

    raise InputFileError(
        f"{source} is no splat that this program reads: it begins with {start!r}. "
        f"Known: {', '.join(SPLAT_SUFFIXES)}."
    )


def load_arrays(
    path: str | Path, *, frame: Frame | None = None, spz_frame: SpzFrame = "raw"
) -> SplatArrays:
    """Read any splat file as arrays in its own axes, even one with broken values.

    Args:
        path: the file.
        frame: axes of the file where the caller knows better than the format's custom.
        spz_frame: axes of an .spz file that does not name its own.

    Raises:
        InputFileError: no such file, unknown format, truncated or damaged.
        MissingDependencyError: a USD file without usd-core.
    """
    source = Path(path)
    try:
        codec = codec_of(format_of_file(source))
        arrays = codec.load(source, SplatOptions(spz_frame=spz_frame))
    except OSError as error:
        raise InputFileError(f"{source} cannot be read: {error}") from error
    except MemoryError as error:
        raise InputFileError(f"{source} needs more memory than there is.") from error
    return arrays if frame is None else replace(arrays, frame=frame)


def read_splat(
    path: str | Path, *, frame: Frame | None = None, spz_frame: SpzFrame = "raw"
) -> Gaussians:
    """Read any splat file as Gaussians of our world.

    Args:
        path: the file; its first bytes choose the format.
        frame: axes of the file where the caller knows better: `rdf` (x right, y down, z away),
            `rub` (x right, y up, z towards the viewer) or `world` (our own).
        spz_frame: axes of an .spz file that does not name its own: `raw` (as in the PLY) or `rub`.

    Returns:
        Float32 Gaussians on the CPU.

    Raises:
        InputFileError: as `load_arrays`, or a value is not finite.
        MissingDependencyError: a USD file without usd-core.
    """
    return to_gaussians(load_arrays(path, frame=frame, spz_frame=spz_frame), Path(path))


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
    chosen = options or SplatOptions()
    row = format_of_suffix(path)
    _save(to_arrays(gaussians, _frame_for(row, chosen)), row, Path(path), chosen)


def convert(
    source: str | Path,
    target: str | Path,
    options: SplatOptions | None = None,
    *,
    frame: Frame | None = None,
    spz_frame: SpzFrame = "raw",
    drop_broken: bool = False,
    overwrite: bool = False,
) -> SplatArrays:
    """Read one splat file and write another.

    Args:
        source: any splat file.
        target: what to write; the suffix chooses the format.
        options: of the writer.
        frame: axes of `source`, as in `read_splat`.
        spz_frame: axes of `source`, as in `read_splat`.
        drop_broken: skip Gaussians with NaN or infinite values instead of refusing the file.
        overwrite: replace `target` if it exists.

    Returns:
        What was written, in the axes of `target`, before any rounding by the format.

    Raises:
        ExportError: `target` exists, or as `write_splat`.
        InputFileError: as `read_splat`.
    """
    chosen = options or SplatOptions()
    row = format_of_suffix(target)
    target_frame = _frame_for(row, chosen)
    if Path(target).exists() and not overwrite:
        raise ExportError(f"{target} exists. Give --overwrite to replace it, or another name.")

    arrays = load_arrays(source, frame=frame, spz_frame=spz_frame)
    if drop_broken:
        arrays = arrays.select(arrays.finite())

    ready = change_frame(arrays, target_frame, Path(source))
    _save(ready, row, Path(target), chosen)
    return ready


def _save(arrays: SplatArrays, row: SplatFormat, path: Path, options: SplatOptions) -> None:
    """Write arrays that are in the axes of a format."""
    if options.sh_degree is not None:
        arrays = arrays.with_degree(options.sh_degree)
    with atomic_path(path) as temporary:
        codec_of(row).save(arrays, temporary, options)


def _frame_for(row: SplatFormat, options: SplatOptions) -> Frame:
    """Return the axes that a file is written in."""
    choose = codec_of(row).frame
    return row.frame if choose is None else choose(options)

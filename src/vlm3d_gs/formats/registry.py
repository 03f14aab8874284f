"""The one door to splat files: which format a file is, reading any, writing any, converting.

A file is known by how it begins, whatever it is called; only .splat has no beginning of its own and
goes by its name. What is to be written goes by its suffix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vlm3d_gs.core.errors import ExportError, InputFileError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.arrays import SplatArrays, to_arrays, to_gaussians, turned
from vlm3d_gs.formats.claims import expect_file
from vlm3d_gs.formats.frames import Frame
from vlm3d_gs.formats.gltf.reader import load_glb
from vlm3d_gs.formats.gltf.writer import save_glb
from vlm3d_gs.formats.ply.compressed import is_compressed, load_compressed_ply, save_compressed_ply
from vlm3d_gs.formats.ply.header import read_header
from vlm3d_gs.formats.ply.splat import PlyFrame, axes_of, load_ply, save_ply
from vlm3d_gs.formats.sog.reader import load_sog
from vlm3d_gs.formats.sog.writer import save_sog
from vlm3d_gs.formats.splat import load_splat, save_splat
from vlm3d_gs.formats.spz.stream import SpzFrame, SpzVersion, frame_of, load_spz, save_spz
from vlm3d_gs.formats.usd import load_usd, save_usd

SplatFormat = Literal["ply", "compressed.ply", "splat", "spz", "sog", "glb", "usd"]

SPLAT_SUFFIXES = (
    *(".ply", ".compressed.ply", ".splat", ".spz", ".sog", ".glb"),
    *(".usda", ".usdc", ".usd"),
)
USD_SUFFIXES = (".usda", ".usdc", ".usd", ".usdz")
BEGINNING_BYTES = 8


@dataclass(frozen=True, slots=True)
class SplatOptions:
    """What a writer may be told; each is for one or two formats and ignored by the others."""

    sh_degree: int | None = None
    """Harmonics written, 0 to 3; None keeps the scene's."""
    pad_sh3: bool = False
    """PLY: all 45 f_rest properties, zeros where the scene has fewer."""
    ply_frame: PlyFrame = "viewer"
    """PLY: axes of the file."""
    spz_version: SpzVersion = 3
    """SPZ: 2, 3 (gzip) or 4 (zstd)."""
    spz_frame: SpzFrame = "raw"
    """SPZ: axes of the file."""


def format_of_suffix(path: str | Path) -> SplatFormat:
    """Return the format that a file name asks for.

    Raises:
        ExportError: unknown suffix; the known ones are listed.
    """
    name = Path(path).name.lower()
    if name.endswith(".compressed.ply"):
        return "compressed.ply"
    if name.endswith(".ply"):
        return "ply"
    if name.endswith(".splat"):
        return "splat"
    if name.endswith(".spz"):
        return "spz"
    if name.endswith(".sog"):
        return "sog"
    if name.endswith(".glb"):
        return "glb"
    if name.endswith(USD_SUFFIXES):
        return "usd"
    raise ExportError(
        f"{Path(path).name!r} names no splat format. Known suffixes: {', '.join(SPLAT_SUFFIXES)}."
    )


def format_of_file(path: str | Path) -> SplatFormat:
    """Return the format that a file is in, by its first bytes; a .splat by its suffix.

    Raises:
        InputFileError: no such file, or it begins like no splat.
    """
    source = Path(path)
    expect_file(source)
    with source.open("rb") as stream:
        start = stream.read(BEGINNING_BYTES)
    if start[:3] == b"ply":
        return "compressed.ply" if is_compressed(read_header(source)) else "ply"
    if start[:4] == b"NGSP" or start[:2] == b"\x1f\x8b":
        return "spz"
    if start[:4] == b"glTF":
        return "glb"
    if start == b"PXR-USDC" or start[:5] == b"#usda":
        return "usd"
    if start[:2] == b"PK":
        return "usd" if source.suffix.lower() == ".usdz" else "sog"
    if source.suffix.lower() == ".splat":
        return "splat"
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
        spz_frame: axes of an .spz file that does not say them.

    Raises:
        InputFileError: no such file, unknown format, truncated or damaged.
        MissingDependencyError: a USD file without usd-core.
    """
    source = Path(path)
    kind = format_of_file(source)
    if kind == "ply":
        arrays = load_ply(source)
    elif kind == "compressed.ply":
        arrays = load_compressed_ply(source)
    elif kind == "splat":
        arrays = load_splat(source)
    elif kind == "spz":
        arrays = load_spz(source, spz_frame=spz_frame)
    elif kind == "sog":
        arrays = load_sog(source)
    elif kind == "glb":
        arrays = load_glb(source)
    else:
        arrays = load_usd(source)
    return arrays if frame is None else replace(arrays, frame=frame)


def read_splat(
    path: str | Path, *, frame: Frame | None = None, spz_frame: SpzFrame = "raw"
) -> Gaussians:
    """Read any splat file as Gaussians of our world.

    Args:
        path: the file; how it begins chooses the format.
        frame: axes of the file where the caller knows better: `rdf` (x right, y down, z away),
            `rub` (x right, y up, z towards the viewer) or `world` (our own).
        spz_frame: axes of an .spz file that does not say them: `raw` (as in the PLY) or `rub`.

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
    frame = _frame_for(format_of_suffix(path), chosen)
    _save(to_arrays(gaussians, frame), Path(path), chosen)


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
        drop_broken: leave out Gaussians with NaN or infinite values instead of refusing the file.
        overwrite: replace `target` if it exists.

    Returns:
        What was written, in the axes of `target`, before any rounding by the format.

    Raises:
        ExportError: `target` exists, or as `write_splat`.
        InputFileError: as `read_splat`.
    """
    chosen = options or SplatOptions()
    wanted = _frame_for(format_of_suffix(target), chosen)
    if Path(target).exists() and not overwrite:
        raise ExportError(f"{target} exists. Give --overwrite to replace it, or another name.")
    arrays = load_arrays(source, frame=frame, spz_frame=spz_frame)
    if drop_broken:
        arrays = arrays.select(arrays.finite())
    ready = turned(arrays, wanted, Path(source))
    _save(ready, Path(target), chosen)
    return ready


def _save(arrays: SplatArrays, path: Path, options: SplatOptions) -> None:
    """Write arrays that are in the axes of the format that the suffix names."""
    kind = format_of_suffix(path)
    if options.sh_degree is not None:
        arrays = arrays.with_degree(options.sh_degree)
    with atomic_path(path) as temporary:
        if kind == "ply":
            save_ply(arrays, temporary, pad_sh3=options.pad_sh3)
        elif kind == "compressed.ply":
            save_compressed_ply(arrays, temporary)
        elif kind == "splat":
            save_splat(arrays, temporary)
        elif kind == "spz":
            save_spz(arrays, temporary, version=options.spz_version)
        elif kind == "sog":
            save_sog(arrays, temporary)
        elif kind == "glb":
            save_glb(arrays, temporary)
        else:
            save_usd(arrays, temporary)


def _frame_for(kind: SplatFormat, options: SplatOptions) -> Frame:
    if kind == "ply":
        return axes_of(options.ply_frame)
    if kind == "spz":
        return frame_of(options.spz_frame)
    if kind in ("glb", "usd"):
        return "rub"
    return "rdf"

"""The table of splat formats. Names, help texts, products and the table in the documents come from it.

To add a format, write a file that reads and writes it and ends in a `CODEC`, and add a row here.
Standard library only: settings and help texts are made from this table without loading torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vlm3d_gs.core.errors import ConfigError, ExportError
from vlm3d_gs.formats.options import Frame

ANY_FRAME: tuple[Frame, ...] = get_args(Frame)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplatFormat:
    """One row: how a format is named and recognised, and what it can hold."""

    name: str
    """Short name, in messages and reports."""
    title: str
    """Name in prose."""
    module: str
    """Module of this room that holds the format's `CODEC`."""
    suffixes: tuple[str, ...]
    """File names that ask for it; a run's products get the first."""
    read_only_suffixes: tuple[str, ...] = ()
    """File names that are read but not written."""
    magic: tuple[bytes, ...]
    """First bytes of its files, at most `MAGIC_BYTES`; empty where only the suffix tells."""
    frame: Frame
    """Axes of its files, unless an option or the file itself names others."""
    frames: tuple[Frame, ...] = ANY_FRAME
    """Axes that can be written: those that a file can name, so that its readers need not guess."""
    sh_degree: int
    """Highest degree of harmonics written."""
    color_range: tuple[float, float] | None = None
    """Lowest and highest degree-0 colour that fits, 0..1 being black to white; None: any."""
    sh_range: float | None = None
    """Largest absolute coefficient of higher harmonics that fits; None: any."""
    grid: Literal["", "linear", "logarithmic", "chunks"] = ""
    """How positions are quantised: over the whole scene, or over the bounds of each chunk."""
    holds_text: bool = True
    """Whether comments of the maker survive."""
    holds_filter: bool = True
    """Whether the mark of Mip-Splatting's filter survives."""
    lossless: bool
    """Whether float32 values survive up to the rounding of exp, log and the change of axes."""
    reads: str
    """What is read beside what is written, in prose."""
    scales: str
    """How scales are stored; this and the next three are columns in the documents."""
    opacities: str
    """How opacities are stored."""
    rotations: str
    """How quaternions are stored."""
    harmonics: str
    """How spherical harmonics are stored."""

    @property
    def product(self) -> str:
        """Name in `export.formats`: the first suffix without its dot."""
        return self.suffixes[0].removeprefix(".")


MAGIC_BYTES = 8

FORMATS = (
    SplatFormat(
        name="ply",
        title="PLY",
        module="ply.splat",
        suffixes=(".ply",),
        magic=(b"ply",),
        frame="rdf",
        sh_degree=3,
        lossless=True,
        reads="ASCII, big endian, doubles, any order; other elements are skipped; `rgb` colours"
        " (nerfstudio); two scales (2DGS); point clouds with `--as-points`; degree 4, cut"
        " to 3",
        scales="logarithm",
        opacities="logit",
        rotations="wxyz",
        harmonics="degree 0 to 3 (4 is read, its last band dropped)",
    ),
    SplatFormat(
        name="compressed.ply",
        title="compressed PLY",
        module="ply.compressed",
        suffixes=(".compressed.ply",),
        magic=(b"ply",),
        frame="rdf",
        sh_degree=3,
        sh_range=4.0,
        grid="chunks",
        lossless=False,
        reads="files of the first version, without bounds of colours",
        scales="logarithm, 11-10-11 bits a chunk",
        opacities="byte",
        rotations="smallest three, 10 bits",
        harmonics="byte over -4..4",
    ),
    SplatFormat(
        name="splat",
        title=".splat",
        module="splat",
        suffixes=(".splat",),
        magic=(),
        frame="rdf",
        frames=("rdf",),
        sh_degree=0,
        color_range=(0.0, 1.0),
        holds_text=False,
        holds_filter=False,
        lossless=False,
        reads="the same",
        scales="linear",
        opacities="byte",
        rotations="wxyz, bytes",
        harmonics="none",
    ),
    SplatFormat(
        name="spz",
        title="SPZ",
        module="spz",
        suffixes=(".spz",),
        magic=(b"NGSP", b"\x1f\x8b"),
        frame="rub",
        frames=("rub", "rdf", "luf", "ldb"),
        sh_degree=3,
        color_range=(-0.440, 1.440),
        sh_range=1.0,
        grid="linear",
        holds_text=False,
        lossless=False,
        reads="versions 1 to 4, gzip unpacked or not; degree 4, cut to 3",
        scales="logarithm, sixteenths",
        opacities="byte",
        rotations="smallest three, 10 bits (version 2: xyz bytes)",
        harmonics="byte over -1..1, in steps of 8 and 16",
    ),
    SplatFormat(
        name="glb",
        title="glTF",
        module="gltf",
        suffixes=(".glb",),
        read_only_suffixes=(".gltf",),
        magic=(b"glTF", b"{"),
        frame="rub",
        frames=("rub",),
        sh_degree=3,
        lossless=True,
        reads="`.gltf` with buffers beside it or inside; quantised attributes; SPZ inside; any "
        "node transforms; linear colours",
        scales="linear",
        opacities="0..1",
        rotations="xyzw",
        harmonics="degree 0 to 3",
    ),
    SplatFormat(
        name="usd",
        title="OpenUSD",
        module="usd",
        suffixes=(".usdc", ".usda", ".usd", ".usdz"),
        magic=(b"PXR-USDC", b"#usda", b"PK"),
        frame="rub",
        frames=("rub",),
        sh_degree=3,
        lossless=True,
        reads="several prims, half precision, z up, any transforms; the first moment of what moves",
        scales="linear",
        opacities="0..1",
        rotations="real part first",
        harmonics="degree 0 to 3",
    ),
    SplatFormat(
        name="sog",
        title="SOG",
        module="sog",
        suffixes=(".sog",),
        read_only_suffixes=(".json",),
        magic=(b"PK", b"{"),
        frame="rdf",
        sh_degree=3,
        grid="logarithmic",
        lossless=False,
        reads="versions 1 and 2; a folder with `meta.json`",
        scales="logarithm, palette of 256",
        opacities="byte",
        rotations="smallest three, bytes",
        harmonics="palette of up to 65 536",
    ),
)
"""Formats that begin alike are asked in this order whether a file is theirs (`Codec.accepts`)."""

SPLAT_SUFFIXES = tuple(suffix for row in FORMATS for suffix in row.suffixes)
"""Every suffix that can be written."""


def format_of_suffix(path: str | Path) -> SplatFormat:
    """Return the format that a file name asks for, the longest suffix deciding.

    Raises:
        ExportError: unknown suffix; the known ones are listed.
    """
    name = Path(path).name.lower()
    fitting = [
        (len(suffix), row)
        for row in FORMATS
        for suffix in (*row.suffixes, *row.read_only_suffixes)
        if name.endswith(suffix)
    ]
    if not fitting:
        raise ExportError(
            f"{Path(path).name!r} names no splat format. Known suffixes: {', '.join(SPLAT_SUFFIXES)}."
        )
    _, row = max(fitting, key=lambda pair: pair[0])
    return row


def format_named(name: str) -> SplatFormat:
    """Return the format of a name, `spz` for example, or of a suffix with or without its dot.

    Raises:
        ConfigError: unknown name; the known ones are listed.
    """
    wanted = name.strip().lower().removeprefix(".")
    for row in FORMATS:
        suffixes = (*row.suffixes, *row.read_only_suffixes)
        if wanted == row.name or f".{wanted}" in suffixes:
            return row
    raise ConfigError(
        f"{name!r} is no splat format. Known: {', '.join(row.name for row in FORMATS)}."
    )

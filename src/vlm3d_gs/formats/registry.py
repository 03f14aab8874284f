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
    suffixes: tuple[str, ...] = ()
    """File names that ask for it; a run's products get the first. None: the format is only read."""
    read_only_suffixes: tuple[str, ...] = ()
    """File names that are read but not written."""
    magic: tuple[bytes, ...]
    """First bytes of its files, at most `MAGIC_BYTES`; empty where only the suffix tells."""
    frame: Frame
    """Axes of its files, unless an option or the file itself names others."""
    frames: tuple[Frame, ...] = ANY_FRAME
    """Axes that can be written: those that a file can name, so that its readers need not guess."""
    sh_degree: int
    """Highest degree of harmonics written, or read where it is only read."""
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
    def writes(self) -> bool:
        """Whether it is written, and not only read."""
        return bool(self.suffixes)

    @property
    def all_suffixes(self) -> tuple[str, ...]:
        """Every file name that is read."""
        return (*self.suffixes, *self.read_only_suffixes)

    @property
    def product(self) -> str:
        """Name in `export.formats` of a format that is written: the first suffix without its dot."""
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
    SplatFormat(
        name="ksplat",
        title=".ksplat",
        module="ksplat",
        read_only_suffixes=(".ksplat",),
        magic=(b"\x00\x01\x00\x00",),
        frame="rdf",
        frames=("rdf",),
        sh_degree=3,
        lossless=False,
        reads="version 0.1, levels of compression 0 to 2, several sections",
        scales="linear, float32 or float16",
        opacities="byte",
        rotations="wxyz, float32 or float16",
        harmonics="float32, float16 or byte, degree 0 to 3",
    ),
)
"""Formats that begin alike are asked in this order whether a file is theirs (`Codec.accepts`)."""

WRITTEN = tuple(row for row in FORMATS if row.writes)
"""The formats that are written too."""
SPLAT_SUFFIXES = tuple(suffix for row in WRITTEN for suffix in row.suffixes)
"""Every suffix that can be written."""


def format_of_suffix(path: str | Path) -> SplatFormat:
    """Return the format that a file name asks to be written in, the longest suffix deciding.

    Raises:
        ExportError: unknown suffix, or one that is only read; those that are written are listed.
    """
    name = Path(path).name.lower()
    fitting = [
        (len(suffix), row, suffix in row.suffixes)
        for row in FORMATS
        for suffix in row.all_suffixes
        if name.endswith(suffix)
    ]
    if not fitting:
        raise ExportError(
            f"{Path(path).name!r} names no splat format. Known suffixes: {', '.join(SPLAT_SUFFIXES)}."
        )
    _, row, written = max(fitting, key=lambda found: found[0])
    if not written:
        raise ExportError(
            f"{Path(path).name!r} cannot be written: files of this kind are only read. Choose one of "
            f"{', '.join(row.suffixes or SPLAT_SUFFIXES)}."
        )
    return row


def format_named(name: str, *, to_write: bool = False) -> SplatFormat:
    """Return the format of a name, `spz` for example, or of a suffix with or without its dot.

    Args:
        name: the name.
        to_write: whether it must be one that is written.

    Raises:
        ConfigError: unknown name, or one that is only read; the known ones are listed.
    """
    wanted = name.strip().lower().removeprefix(".")
    known = WRITTEN if to_write else FORMATS
    for row in known:
        if wanted == row.name or f".{wanted}" in row.all_suffixes:
            return row
    what = "splat format that is written" if to_write else "splat format"
    raise ConfigError(f"{name!r} is no {what}. Known: {', '.join(row.name for row in known)}.")

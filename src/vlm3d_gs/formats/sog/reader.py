"""Reading SOG, versions 1 and 2, zipped or in a folder; every size is checked before it is unpacked.

Version 1 (self-organising Gaussians, SOGS) names no version. Its bytes are shares of ranges where
those of version 2 are indices into palettes, and its opacities are logits.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.claims import Budget, expect_file, gaussian_bytes
from vlm3d_gs.formats.options import AXES
from vlm3d_gs.formats.quantize import INV_SQRT2, ByteArray, byte_logits, join_largest
from vlm3d_gs.formats.sog.writer import LARGEST_FIRST, MAX_ENTRIES, PER_ROW, VERSION

FIRST = 1
"""The version that files do not name."""
META = "meta.json"
MAX_META_BYTES = 2**20
"""The JSON holds three palettes of 256 numbers and little else."""
MAX_COUNT = 2**28
"""More pixels than the largest WebP image has."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How members may be packed. No program packs them otherwise, and bzip2 and LZMA may take memory at will."""
BROKEN = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, UnidentifiedImageError),
    *(NotImplementedError, RuntimeError, KeyError, ValueError, TypeError, OverflowError),
    *(SyntaxError, IndexError, AttributeError, RecursionError, Image.DecompressionBombError),
)
"""What zipfile, json and Pillow raise on damaged input."""


@dataclass(frozen=True)
class Members:
    """The files of a SOG, in a zip or a folder, read only up to a bounded size."""

    source: Path
    """The zip, or the meta.json of a folder."""
    zip: zipfile.ZipFile | None
    size: int
    """Length of all of it, bytes."""
    budget: Budget
    """What all of its parts may unpack to."""

    def member(self, name: object, max_bytes: int) -> bytes:
        """Return a member's content; raise if it is packed in an unusual way or longer than `max_bytes`."""
        with self._open(str(name)) as stream:
            content = stream.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise InputFileError(
                f"{self.source} is damaged: {name} is longer than {max_bytes} bytes."
            )
        return content

    def _open(self, name: str) -> IO[bytes]:
        if self.zip is not None:
            info = self.zip.getinfo(name)
            if info.compress_type not in METHODS:
                raise InputFileError(
                    f"{self.source} packs {name} by method {info.compress_type}; a .sog is stored or deflated. "
                    "Pack it again."
                )
            return self.zip.open(info)
        path = self.source.parent / name
        if Path(name).name != name or not path.is_file():
            raise InputFileError(f"{self.source} names {name[:80]!r}, which is not beside it.")
        return path.open("rb")

    def pixels(self, name: object, channels: int, count: int) -> ByteArray:
        """Return the first pixels of an image, [count, channels]."""
        image = self.image(name, channels)
        if image.shape[0] * image.shape[1] < count:
            raise InputFileError(
                f"{self.source} is damaged: {name} has {image.shape[1]} x {image.shape[0]} pixels for "
                f"{count} values."
            )
        return image.reshape(-1, channels)[:count]

    def image(self, name: object, channels: int) -> ByteArray:
        """Return a whole image, [height, width, channels]."""
        content = self.member(name, self.size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=["WEBP", "PNG"])

        width, height = image.size
        promised = f"an image of {width} x {height} pixels"
        self.budget.spend(promised, 4 * width * height)
        return np.asarray(image.convert("RGBA" if channels == 4 else "RGB"))


def load_sog(source: Path) -> SplatArrays:
    """Read a .sog file, or the folder or meta.json of an unzipped one, as arrays in the file's axes.

    Raises:
        InputFileError: not a SOG of version 1 or 2, truncated or damaged.
    """
    meta = source / META if source.is_dir() else source
    expect_file(meta)
    try:
        if not zipfile.is_zipfile(meta):
            size = sum(path.stat().st_size for path in meta.parent.iterdir() if path.is_file())
            return _load(Members(meta, None, size, Budget(meta, size)))
        with zipfile.ZipFile(source) as archive:
            size = source.stat().st_size
            return _load(Members(source, archive, size, Budget(source, size)))
    except BROKEN as error:
        raise InputFileError(
            f"{source} is not a readable SOG: {type(error).__name__}: {error}"
        ) from error


def is_sog(source: Path) -> bool:
    """Return whether a file that begins like a zip or like JSON, or a folder, is a SOG."""
    if source.is_dir():
        return (source / META).is_file()
    with source.open("rb") as stream:
        if stream.read(2) == b"PK":
            return source.suffix.lower() != ".usdz"
        start = stream.read(MAX_META_BYTES)
    return b'"means"' in start and b'"quats"' in start


def _load(members: Members) -> SplatArrays:
    """Return the arrays of a SOG; damage may raise any of `BROKEN`."""
    name = META if members.zip is not None else members.source.name
    meta = json.loads(members.member(name, MAX_META_BYTES))
    if not isinstance(meta, dict) or meta.get("version", FIRST) not in (FIRST, VERSION):
        found = meta.get("version") if isinstance(meta, dict) else meta
        raise InputFileError(
            f"{members.source} is a SOG of version {str(found)[:20]}; this program reads versions {FIRST} "
            f"and {VERSION}. Convert it with PlayCanvas' splat-transform."
        )

    first = meta.get("version", FIRST) == FIRST
    count = _count(members, meta["means"]["shape"][0] if first else meta["count"], MAX_COUNT)
    bands = 0
    if meta.get("shN"):
        bands = 3 if first else _count(members, meta["shN"]["bands"], 3)
    members.budget.spend(f"{count} Gaussians", count * gaussian_bytes((bands + 1) ** 2))
    rotations = members.pixels(meta["quats"]["files"][0], 4, count)
    if rotations[:, 3].min() < LARGEST_FIRST:
        raise InputFileError(f"{members.source} is damaged: a rotation has no known mode.")
    rest = (rotations[:, :3].astype(np.float32) / 255.0 * 2.0 - 1.0) * INV_SQRT2

    columns = {
        "means": _positions(members, meta["means"], count),
        "quats": join_largest(rotations[:, 3] - LARGEST_FIRST, rest.astype(np.float32)),
        **(_ranged if first else _indexed)(members, meta, count),
    }
    return replace(SplatArrays.of(columns, "rdf"), **_notes(meta))


def _indexed(members: Members, meta: dict[str, Any], count: int) -> dict[str, FloatArray]:
    """Return scales, opacities and harmonics of version 2, whose bytes are indices into palettes."""
    colors = members.pixels(meta["sh0"]["files"][0], 4, count)
    sh = _codebook(meta["sh0"])[colors[:, :3]][:, None]
    if "shN" in meta:
        sh = np.concatenate([sh, _harmonics(members, meta["shN"], count)], axis=1)
    scales = members.pixels(meta["scales"]["files"][0], 3, count)
    return {
        "log_scales": _codebook(meta["scales"])[scales],
        "opacity_logits": byte_logits(colors[:, 3]),
        "sh": sh,
    }


def _ranged(members: Members, meta: dict[str, Any], count: int) -> dict[str, FloatArray]:
    """Return the same of version 1, whose bytes are shares of ranges; opacities are logits there."""
    scales = _within(meta["scales"], members.pixels(meta["scales"]["files"][0], 3, count))
    colors = _within(meta["sh0"], members.pixels(meta["sh0"]["files"][0], 4, count))
    sh = colors[:, None, :3]
    if meta.get("shN"):
        entry = meta["shN"]
        centroids = members.image(entry["files"][0], 3)
        coefficients, left = divmod(centroids.shape[1], PER_ROW)
        if left or coefficients not in (3, 8, 15):
            raise InputFileError(f"{members.source} is damaged: its palette has no known width.")
        palette = _within(entry, centroids.reshape(-1, coefficients, 3))
        sh = np.concatenate([sh, palette[_labels(members, entry, count, len(palette))]], axis=1)
    return {"log_scales": scales, "opacity_logits": colors[:, 3], "sh": sh}


def _within(meta: dict[str, Any], codes: ByteArray) -> FloatArray:
    """Return the values of bytes between the ends of their range, one for each channel or one for all."""
    low, high = (np.asarray(meta[name], np.float64) for name in ("mins", "maxs"))
    with np.errstate(over="ignore", invalid="ignore"):
        values: FloatArray = (low + (high - low) * (codes / 255.0)).astype(np.float32)
    return values


def _notes(meta: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says about itself, as `SplatArrays` holds it."""
    axes, comments = meta.get("axes"), meta.get("comments")
    texts = comments if isinstance(comments, list) else []
    return {
        "frame": axes if axes in AXES else "rdf",
        "antialiased": meta.get("model") == "antialiased" or meta.get("antialias") is True,
        "comments": tuple(text for text in texts if isinstance(text, str)),
    }


def _positions(members: Members, meta: dict[str, Any], count: int) -> FloatArray:
    low, high = (np.asarray(meta[name], np.float64).reshape(3) for name in ("mins", "maxs"))
    fine, coarse = (members.pixels(name, 3, count).astype(np.uint32) for name in meta["files"][:2])
    # Broken ranges become infinite, which `to_gaussians` refuses.
    with np.errstate(over="ignore", invalid="ignore"):
        logs = low + (high - low) * ((coarse << 8 | fine) / 65535.0)
        means: FloatArray = (np.sign(logs) * np.expm1(np.abs(logs))).astype(np.float32)
    return means


def _harmonics(members: Members, meta: dict[str, Any], count: int) -> FloatArray:
    """Return the higher coefficients, [N, K-1, 3]."""
    bands = _count(members, meta["bands"], 3)
    entries = _count(members, meta["count"], MAX_ENTRIES)
    coefficients = (bands + 1) ** 2 - 1
    rows = -(-entries // PER_ROW)
    codes = members.pixels(meta["files"][0], 3, rows * PER_ROW * coefficients)
    palette = _codebook(meta)[codes].reshape(-1, coefficients, 3)
    return palette[_labels(members, meta, count, entries)]


def _labels(
    members: Members, meta: dict[str, Any], count: int, entries: int
) -> NDArray[np.integer]:
    """Return the palette entry of each Gaussian, [N]."""
    halves = members.pixels(meta["files"][1], 3, count).astype(np.uint32)
    label: NDArray[np.integer] = halves[:, 0] | halves[:, 1] << 8
    if label.max() >= entries:
        raise InputFileError(f"{members.source} is damaged: a label names no entry of the palette.")
    return label


def _codebook(meta: dict[str, Any]) -> FloatArray:
    """Return 256 numbers; null entries become NaN, which is refused later if a Gaussian uses it."""
    values: NDArray[np.float32] = np.asarray(meta["codebook"], np.float32).reshape(256)
    return values


def _count(members: Members, value: object, largest: int) -> int:
    """Return a count from the JSON if it is a whole number from 1 to `largest`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise InputFileError(
            f"{members.source} is damaged: a count must be 1 to {largest}, got {str(value)[:20]}."
        )
    return value

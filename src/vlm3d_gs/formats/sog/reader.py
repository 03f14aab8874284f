"""Reading SOG version 2; every size in the untrusted zip is checked before it is unpacked."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.claims import Budget, expect_file, gaussian_bytes
from vlm3d_gs.formats.quantize import INV_SQRT2, ByteArray, byte_logits, join_largest
from vlm3d_gs.formats.sog.writer import LARGEST_FIRST, MAX_ENTRIES, PER_ROW, VERSION

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
class _Archive:
    """A zip whose members are read only up to a bounded size."""

    source: Path
    zip: zipfile.ZipFile
    size: int
    """Length of the whole file, bytes."""
    budget: Budget
    """What all of its parts may unpack to."""

    def member(self, name: str, max_bytes: int) -> bytes:
        """Return a member's content; raise if it is packed in an unusual way or longer than `max_bytes`."""
        info = self.zip.getinfo(str(name))
        if info.compress_type not in METHODS:
            raise InputFileError(
                f"{self.source} packs {name} by method {info.compress_type}; a .sog is stored or deflated. "
                "Pack it again."
            )
        with self.zip.open(info) as stream:
            content = stream.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise InputFileError(
                f"{self.source} is damaged: {name} is longer than {max_bytes} bytes."
            )
        return content

    def pixels(self, name: str, channels: int, count: int) -> ByteArray:
        """Return the first pixels of an image, [count, channels]."""
        content = self.member(name, self.size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=["WEBP"])

        width, height = image.size
        promised = f"an image of {width} x {height} pixels"
        self.budget.spend(promised, 4 * width * height)
        if width * height < count:
            raise InputFileError(
                f"{self.source} is damaged: {name} has {width} x {height} pixels for {count} values."
            )

        rows = np.asarray(image.convert("RGBA" if channels == 4 else "RGB"))
        return rows.reshape(-1, channels)[:count]


def load_sog(source: Path) -> SplatArrays:
    """Read a .sog file as arrays in the file's axes.

    Raises:
        InputFileError: not a SOG of version 2, truncated or damaged.
    """
    expect_file(source)
    try:
        with zipfile.ZipFile(source) as archive:
            size = source.stat().st_size
            return _load(_Archive(source, archive, size, Budget(source, size)))
    except BROKEN as error:
        raise InputFileError(
            f"{source} is not a readable .sog file: {type(error).__name__}: {error}"
        ) from error


def _load(archive: _Archive) -> SplatArrays:
    """Return the arrays of an archive; damage may raise any of `BROKEN`."""
    meta = json.loads(archive.member("meta.json", MAX_META_BYTES))
    if not isinstance(meta, dict) or meta.get("version") != VERSION:
        found = meta.get("version") if isinstance(meta, dict) else meta
        raise InputFileError(
            f"{archive.source} is a SOG of version {str(found)[:20]}; this program reads version "
            f"{VERSION}. Convert it with PlayCanvas' splat-transform."
        )

    count = _count(archive, meta["count"], MAX_COUNT)
    bands = _count(archive, meta["shN"]["bands"], 3) if "shN" in meta else 0
    archive.budget.spend(f"{count} Gaussians", count * gaussian_bytes((bands + 1) ** 2))
    colors = archive.pixels(meta["sh0"]["files"][0], 4, count)
    sh = _codebook(meta["sh0"])[colors[:, :3]][:, None]
    if "shN" in meta:
        sh = np.concatenate([sh, _harmonics(archive, meta["shN"], count)], axis=1)

    rotations = archive.pixels(meta["quats"]["files"][0], 4, count)
    if rotations[:, 3].min() < LARGEST_FIRST:
        raise InputFileError(f"{archive.source} is damaged: a rotation has no known mode.")
    rest = (rotations[:, :3].astype(np.float32) / 255.0 * 2.0 - 1.0) * INV_SQRT2

    return SplatArrays(
        means=_positions(archive, meta["means"], count),
        log_scales=_codebook(meta["scales"])[archive.pixels(meta["scales"]["files"][0], 3, count)],
        quats=join_largest(rotations[:, 3] - LARGEST_FIRST, rest.astype(np.float32)),
        opacity_logits=byte_logits(colors[:, 3]),
        sh=sh,
        frame="rdf",
    )


def _positions(archive: _Archive, meta: dict[str, Any], count: int) -> FloatArray:
    low, high = (np.asarray(meta[name], np.float64).reshape(3) for name in ("mins", "maxs"))
    fine, coarse = (archive.pixels(name, 3, count).astype(np.uint32) for name in meta["files"][:2])
    # Broken ranges become infinite, which `to_gaussians` refuses.
    with np.errstate(over="ignore", invalid="ignore"):
        logs = low + (high - low) * ((coarse << 8 | fine) / 65535.0)
        means: FloatArray = (np.sign(logs) * np.expm1(np.abs(logs))).astype(np.float32)
    return means


def _harmonics(archive: _Archive, meta: dict[str, Any], count: int) -> FloatArray:
    """Return the higher coefficients, [N, K-1, 3]."""
    bands = _count(archive, meta["bands"], 3)
    entries = _count(archive, meta["count"], MAX_ENTRIES)
    coefficients = (bands + 1) ** 2 - 1
    centroids, labels = meta["files"][:2]

    rows = -(-entries // PER_ROW)
    codes = archive.pixels(centroids, 3, rows * PER_ROW * coefficients)
    halves = archive.pixels(labels, 3, count).astype(np.uint32)
    label = halves[:, 0] | halves[:, 1] << 8
    if label.max() >= entries:
        raise InputFileError(f"{archive.source} is damaged: a label names no entry of the palette.")

    palette = _codebook(meta)[codes].reshape(-1, coefficients, 3)
    return palette[label]


def _codebook(meta: dict[str, Any]) -> FloatArray:
    """Return 256 numbers; null entries become NaN, which is refused later if a Gaussian uses it."""
    values: NDArray[np.float32] = np.asarray(meta["codebook"], np.float32).reshape(256)
    return values


def _count(archive: _Archive, value: object, largest: int) -> int:
    """Return a count from the JSON if it is a whole number from 1 to `largest`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise InputFileError(
            f"{archive.source} is damaged: a count must be 1 to {largest}, got {str(value)[:20]}."
        )
    return value

"""Writing SOG version 2, PlayCanvas' web format: a zip of lossless WebP images and one JSON of ranges.

Pixel i of each image belongs to Gaussian i. Positions have 16 bits an axis on a logarithmic scale.
Rotations are the smallest three as bytes, with the index of the dropped component in alpha. Scales
and degree-0 colours are bytes into palettes of 256 numbers; opacity is the alpha of the colours.
Higher harmonics are 16-bit labels into a palette of whole coefficient sets, which is itself stored
as bytes into 256 numbers. Axes as in the PLY.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.order import morton_order
from vlm3d_gs.formats.quantize import (
    INV_SQRT2,
    ByteArray,
    alpha_bytes,
    split_largest,
    to_byte,
    to_unorm,
)
from vlm3d_gs.formats.sog.palettes import nearest_codes, number_palette, vector_palette
from vlm3d_gs.formats.stream import in_order

VERSION = 2
PER_ROW = 64
"""Coefficient sets in a row of their palette's image."""
MAX_ENTRIES = 65_536
MAX_SIDE = 16_383
"""The largest side of a WebP image."""
LARGEST_FIRST = 252
"""Alpha of a rotation whose w was dropped; 253 to 255 for x, y, z."""
EFFORT, METHOD = 20, 1
"""Of lossless WebP, up to 100 and 6: 50 and 4 take three times as long and save half a percent."""
Column = tuple[dict[str, Any], dict[str, bytes]]
"""What the JSON says about a column, and its pictures by the names of their files."""


def save_sog(arrays: SplatArrays, path: Path) -> None:
    """Write arrays as one .sog file, sorted along a Z-curve.

    Raises:
        ExportError: more Gaussians than an image has pixels.
    """
    if len(arrays) > MAX_SIDE**2:
        raise ExportError(f"A .sog file holds at most {MAX_SIDE**2} Gaussians, got {len(arrays)}.")
    order = morton_order(arrays.means)

    # The longest first; each is a thread's work, and only pictures that are packed stay in memory.
    columns = (
        lambda: _harmonics(arrays.sh, order),
        lambda: _positions(arrays.means[order]),
        lambda: _rotations(arrays.quats[order]),
        lambda: _indexed("scales", arrays.log_scales[order]),
        lambda: _indexed("sh0", arrays.sh[:, 0][order], alpha_bytes(arrays.opacity_logits)[order]),
    )
    found = list(in_order(lambda n: columns[n](), len(columns)))
    meta: dict[str, Any] = {"version": VERSION, "count": len(arrays), **_notes(arrays)}
    pictures: dict[str, bytes] = {}
    for entry, files in reversed(found):
        meta |= entry
        pictures |= files

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        # The default date of ZipInfo is constant: the same Gaussians give the same bytes.
        archive.writestr(zipfile.ZipInfo("meta.json"), json.dumps(meta))
        for name, content in pictures.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def _notes(arrays: SplatArrays) -> dict[str, Any]:
    """Return what the file says about itself: the training filter, and with our own keys the rest."""
    notes: dict[str, Any] = {}
    if arrays.antialiased:
        notes["model"] = "antialiased"
    if arrays.frame != "rdf":
        notes["axes"] = arrays.frame
    if arrays.comments:
        notes["comments"] = list(arrays.comments)
    return notes


def _positions(means: FloatArray) -> Column:
    """Return the range of the logarithmic positions, and the pictures of their 16-bit codes."""
    wide = means.astype(np.float64)
    logs = np.sign(wide) * np.log1p(np.abs(wide))
    low, high = logs.min(0), logs.max(0)
    codes = to_unorm((logs - low) / np.where(high > low, high - low, 1.0), 16)
    files = {
        "means_l.webp": _webp(_as_image((codes & 255).astype(np.uint8))),
        "means_u.webp": _webp(_as_image((codes >> 8).astype(np.uint8))),
    }
    return {"means": {"mins": low.tolist(), "maxs": high.tolist(), "files": [*files]}}, files


def _rotations(quats: FloatArray) -> Column:
    """Return the picture of the smallest three as bytes, with the dropped component as alpha."""
    largest, rest = split_largest(quats)
    codes = to_byte((rest / INV_SQRT2 * 0.5 + 0.5) * 255.0)
    alpha = (LARGEST_FIRST + largest).astype(np.uint8)
    files = {"quats.webp": _webp(_as_image(np.concatenate([codes, alpha[:, None]], axis=1)))}
    return {"quats": {"files": [*files]}}, files


def _indexed(name: str, values: FloatArray, alpha: ByteArray | None = None) -> Column:
    """Return a palette of numbers, and the picture of indices into it, perhaps with another channel.

    Args:
        name: of the entry.
        values: [N, 3].
        alpha: [N].
    """
    palette = number_palette(values)
    codes = nearest_codes(values, palette)
    if alpha is not None:
        codes = np.concatenate([codes, alpha[:, None]], axis=1)
    files = {f"{name}.webp": _webp(_as_image(codes))}
    return {name: {"codebook": palette.tolist(), "files": [*files]}}, files


def _harmonics(sh: FloatArray, order: NDArray[np.intp]) -> Column:
    """Return the entry and the pictures of the higher harmonics of [N, K, 3], if there are any."""
    count, coefficients = len(sh), sh.shape[1] - 1
    if coefficients == 0:
        return {}, {}
    size = min(MAX_ENTRIES, 2 ** max(10, math.floor(math.log2(count))))
    # The palette does not depend on the order, and labels are quicker sorted than harmonics.
    entries, labels = vector_palette(sh[:, 1:].reshape(count, -1), size)
    labels = labels[order]
    palette = number_palette(entries)

    rows = -(-len(entries) // PER_ROW)
    pixels = np.zeros((rows * PER_ROW, coefficients, 3), np.uint8)
    pixels[: len(entries)] = nearest_codes(entries, palette).reshape(-1, coefficients, 3)
    halves = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=1)

    files = {
        "shN_centroids.webp": _webp(pixels.reshape(rows, PER_ROW * coefficients, 3)),
        "shN_labels.webp": _webp(_as_image(halves.astype(np.uint8))),
    }
    entry = {
        "count": len(entries),
        "bands": math.isqrt(coefficients + 1) - 1,
        "codebook": palette.tolist(),
        "files": [*files],
    }
    return {"shN": entry}, files


def _as_image(pixels: ByteArray) -> ByteArray:
    """Return [N, C] pixels as a nearly square image, [H, W, C], padded with zeros."""
    count, channels = pixels.shape
    width = min(MAX_SIDE, 4 * math.ceil(math.sqrt(count) / 4))
    height = -(-count // width)
    padded = np.zeros((height * width, channels), np.uint8)
    padded[:count] = pixels
    return padded.reshape(height, width, channels)


def _webp(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    # `exact` keeps the colours of transparent pixels: here alpha is data like the other channels.
    Image.fromarray(pixels).save(
        stream, "WEBP", lossless=True, quality=EFFORT, method=METHOD, exact=True
    )
    return stream.getvalue()

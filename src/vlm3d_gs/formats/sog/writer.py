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

VERSION = 2
PER_ROW = 64
"""Coefficient sets in a row of their palette's image."""
MAX_ENTRIES = 65_536
MAX_SIDE = 16_383
"""The largest side of a WebP image."""
LARGEST_FIRST = 252
"""Alpha of a rotation whose w was dropped; 253 to 255 for x, y, z."""
EFFORT = 50
"""Of lossless WebP, 0 to 100: higher takes longer and saves few bytes."""


def save_sog(arrays: SplatArrays, path: Path) -> None:
    """Write arrays as one .sog file, sorted along a Z-curve.

    Raises:
        ExportError: more Gaussians than an image has pixels.
    """
    if len(arrays) > MAX_SIDE**2:
        raise ExportError(f"A .sog file holds at most {MAX_SIDE**2} Gaussians, got {len(arrays)}.")
    arrays = arrays.select(morton_order(arrays.means))

    low, high, images = _positions(arrays.means)
    images["quats"] = _rotations(arrays.quats)
    scale_palette = number_palette(arrays.log_scales)
    color_palette = number_palette(arrays.sh[:, 0])
    images["scales"] = nearest_codes(arrays.log_scales, scale_palette)
    alpha = alpha_bytes(arrays.opacity_logits)[:, None]
    images["sh0"] = np.concatenate([nearest_codes(arrays.sh[:, 0], color_palette), alpha], axis=1)

    meta: dict[str, Any] = {
        "version": VERSION,
        "count": len(arrays),
        **_notes(arrays),
        "means": {"mins": low, "maxs": high, "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_palette.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": color_palette.tolist(), "files": ["sh0.webp"]},
    }
    pictures = {name: _as_image(pixels) for name, pixels in images.items()}
    if arrays.sh.shape[1] > 1:
        meta["shN"], sh_pictures = _harmonics(arrays.sh[:, 1:])
        pictures |= sh_pictures

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        # The default date of ZipInfo is constant: the same Gaussians give the same bytes.
        archive.writestr(zipfile.ZipInfo("meta.json"), json.dumps(meta))
        for name, pixels in pictures.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.webp"), _webp(pixels))


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


def _positions(means: FloatArray) -> tuple[list[float], list[float], dict[str, ByteArray]]:
    """Return the lowest and highest logarithmic positions, and the bytes of their 16-bit codes."""
    wide = means.astype(np.float64)
    logs = np.sign(wide) * np.log1p(np.abs(wide))
    low, high = logs.min(0), logs.max(0)
    codes = to_unorm((logs - low) / np.where(high > low, high - low, 1.0), 16)
    halves = {"means_l": (codes & 255).astype(np.uint8), "means_u": (codes >> 8).astype(np.uint8)}
    return low.tolist(), high.tolist(), halves


def _rotations(quats: FloatArray) -> ByteArray:
    """Return the smallest three as bytes and the dropped component as alpha, [N, 4]."""
    largest, rest = split_largest(quats)
    codes = to_byte((rest / INV_SQRT2 * 0.5 + 0.5) * 255.0)
    alpha = (LARGEST_FIRST + largest).astype(np.uint8)
    return np.concatenate([codes, alpha[:, None]], axis=1)


def _harmonics(rest: FloatArray) -> tuple[dict[str, Any], dict[str, ByteArray]]:
    """Return the metadata entry and the two images of the higher harmonics.

    Args:
        rest: [N, K-1, 3].
    """
    count, coefficients, _ = rest.shape
    size = min(MAX_ENTRIES, 2 ** max(10, math.floor(math.log2(count))))
    entries, labels = vector_palette(rest.reshape(count, -1), size)
    palette = number_palette(entries)

    rows = -(-len(entries) // PER_ROW)
    pixels = np.zeros((rows * PER_ROW, coefficients, 3), np.uint8)
    pixels[: len(entries)] = nearest_codes(entries, palette).reshape(-1, coefficients, 3)

    halves = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=1)
    meta = {
        "count": len(entries),
        "bands": math.isqrt(coefficients + 1) - 1,
        "codebook": palette.tolist(),
        "files": ["shN_centroids.webp", "shN_labels.webp"],
    }
    images = {
        "shN_centroids": pixels.reshape(rows, PER_ROW * coefficients, 3),
        "shN_labels": _as_image(halves.astype(np.uint8)),
    }
    return meta, images


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
    Image.fromarray(pixels).save(stream, "WEBP", lossless=True, quality=EFFORT, exact=True)
    return stream.getvalue()

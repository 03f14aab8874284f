"""The .splat format of the first web viewers: 32 bytes a Gaussian, no header, no harmonics.

Little endian: three float32 positions, three float32 scales (standard deviations, not logarithms),
four bytes red, green, blue, opacity, four bytes of a unit quaternion wxyz as q * 128 + 128. Axes as
in the PLY. The most important Gaussians come first, since viewers show a file while it loads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.claims import expect_file, table_rows
from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.order import log_importance
from vlm3d_gs.formats.quantize import alpha_bytes, byte_logits, log_of, to_byte
from vlm3d_gs.formats.stream import PIECE, SplatStream

ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def save_splat(splat: SplatStream, path: Path) -> None:
    """Write a splat as .splat, most important first; harmonics beyond degree 0 are lost."""
    rows, importance, start = np.empty(len(splat), ROW), np.empty(len(splat)), 0
    for part, weight in splat.each(lambda piece: (_to_rows(piece), log_importance(piece))):
        rows[start : start + len(part)] = part
        importance[start : start + len(part)] = weight
        start += len(part)

    order = np.argsort(-importance, kind="stable")
    with path.open("wb") as stream:
        for start in range(0, len(order), PIECE):
            stream.write(rows[order[start : start + PIECE]].tobytes())


def _to_rows(piece: SplatArrays) -> NDArray[np.void]:
    rows = np.empty(len(piece), ROW)
    rows["mean"] = piece.means
    rows["scale"] = np.exp(piece.log_scales)
    rows["rgba"][:, :3] = to_byte((piece.sh[:, 0] * SH_C0 + 0.5) * 255.0)
    rows["rgba"][:, 3] = alpha_bytes(piece.opacity_logits)
    rows["quat"] = to_byte(piece.quats * 128.0 + 128.0)
    return rows


def open_splat_file(source: Path) -> SplatStream:
    """Open a .splat as a stream in the file's axes; negative scales become NaN.

    Raises:
        InputFileError: no such file, or its length is not a multiple of 32 bytes.
    """
    expect_file(source)
    size = source.stat().st_size
    if not size or size % ROW.itemsize:
        raise InputFileError(
            f"{source} is not a .splat file, or truncated: its length must be a multiple of "
            f"{ROW.itemsize} bytes, it is {size}."
        )
    return SplatStream.of_rows(
        size // ROW.itemsize, 0, "rdf", lambda rows: _from_rows(table_rows(source, 0, ROW, rows))
    )


def _from_rows(rows: NDArray[np.void]) -> SplatArrays:
    quats = rows["quat"].astype(np.float32) / 128.0 - 1.0
    color = rows["rgba"][:, :3].astype(np.float32) / 255.0

    return SplatArrays(
        means=rows["mean"].astype(np.float32),
        log_scales=log_of(rows["scale"]),
        quats=quats,
        opacity_logits=byte_logits(rows["rgba"][:, 3]),
        sh=((color - 0.5) / SH_C0)[:, None].astype(np.float32),
        frame="rdf",
    )


CODEC = Codec(
    open=lambda source, _: open_splat_file(source),
    save=lambda splat, path, _: save_splat(splat, path),
)

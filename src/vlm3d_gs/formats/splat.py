"""The .splat format of the first web viewers: 32 bytes a Gaussian, no header, no harmonics.

Little endian: three float32 positions, three float32 scales (standard deviations, not logarithms),
four bytes red, green, blue, opacity, four bytes of a unit quaternion wxyz as q * 128 + 128. Axes as
in the PLY. The most important Gaussians come first, since viewers show a file while it loads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.harmonics import SH_C0
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.claims import file_bytes
from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.order import importance_order
from vlm3d_gs.formats.quantize import alpha_bytes, byte_logits, log_of, to_byte

ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def save_splat(arrays: SplatArrays, path: Path) -> None:
    """Write arrays as .splat, most important first; harmonics beyond degree 0 are lost."""
    arrays = arrays.select(importance_order(arrays))
    rows = np.empty(len(arrays), ROW)
    rows["mean"] = arrays.means
    rows["scale"] = np.exp(arrays.log_scales)
    rows["rgba"][:, :3] = to_byte((arrays.sh[:, 0] * SH_C0 + 0.5) * 255.0)
    rows["rgba"][:, 3] = alpha_bytes(arrays.opacity_logits)
    rows["quat"] = to_byte(arrays.quats * 128.0 + 128.0)
    path.write_bytes(rows.tobytes())


def load_splat(source: Path) -> SplatArrays:
    """Read a .splat as arrays in the file's axes; negative scales become NaN.

    Raises:
        InputFileError: no such file, or its length is not a multiple of 32 bytes.
    """
    data = file_bytes(source)
    if not data or len(data) % ROW.itemsize:
        raise InputFileError(
            f"{source} is not a .splat file, or truncated: its length must be a multiple of "
            f"{ROW.itemsize} bytes, it is {len(data)}."
        )

    rows = np.frombuffer(data, ROW)
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


CODEC = Codec.plain(load_splat, save_splat)

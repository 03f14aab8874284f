"""Images as tensors: compositing, resizing, bytes, PNG files, grids.

Everywhere in this package an image batch is `[B, H, W, 3]` float, 0 to 1, sRGB as displayed, and
alpha is `[B, H, W, 1]`. Rendered colour is premultiplied by alpha until it is composited. Nothing
here knows what an image shows.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from vlm3d_gs.core.errors import InputFileError, ShapeError
from vlm3d_gs.core.files import atomic_path

Color = tuple[float, float, float]
"""Red, green, blue, 0 to 1, sRGB as displayed."""

WHITE: Color = (1.0, 1.0, 1.0)
MAX_PIXELS = 2**24
"""Largest picture that is read, 4096 x 4096: 0.2 GB as floats."""
BROKEN_PICTURE = (
    *(OSError, SyntaxError, ValueError, OverflowError, struct.error, zlib.error),
    Image.DecompressionBombError,
)
"""What Pillow raises on damaged files."""
LABEL_PX = 14
"""Height of a label's letters."""


def composite(premultiplied: Tensor, alpha: Tensor, background: Color | Tensor) -> Tensor:
    """Composite premultiplied colour over a background: color + (1 - alpha) background.

    Args:
        premultiplied: [..., H, W, 3] colour times alpha.
        alpha: [..., H, W, 1] coverage, 0 to 1.
        background: three numbers, [3], or any shape that broadcasts to [..., H, W, 3].

    Returns:
        [..., H, W, 3] the opaque image.

    Raises:
        ShapeError: the last dimensions are not 3 and 1, or the images differ in size.

    Differentiable in every tensor.
    """
    if premultiplied.shape[-1] != 3 or alpha.shape != (*premultiplied.shape[:-1], 1):
        raise ShapeError(
            "composite needs color [..., H, W, 3] and alpha [..., H, W, 1], "
            f"got {tuple(premultiplied.shape)} and {tuple(alpha.shape)}."
        )
    backdrop = torch.as_tensor(background, dtype=premultiplied.dtype, device=premultiplied.device)
    return premultiplied + (1.0 - alpha) * backdrop


def unpremultiply(premultiplied: Tensor, alpha: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide colour by alpha; where alpha is below `eps` the result is black."""
    return torch.where(alpha > eps, premultiplied / alpha.clamp_min(eps), 0.0)


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Resize bilinearly, with antialiasing when shrinking.

    Args:
        images: [B, H, W, C] float.
        height: rows of the result, at least 1.
        width: columns of the result, at least 1.

    Returns:
        [B, height, width, C], same dtype; the input itself when the size is already right.

    Raises:
        ShapeError: not four dimensions, or a size below 1.

    Differentiable in `images`.
    """
    if images.ndim != 4:
        raise ShapeError(f"resize needs images [B, H, W, C], got shape {tuple(images.shape)}.")
    if height < 1 or width < 1:
        raise ShapeError(f"resize needs a size of at least 1 x 1, got {height} x {width}.")
    if images.shape[1:3] == (height, width):
        return images

    channels_first = images.movedim(-1, 1)
    resized = functional.interpolate(
        channels_first, (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return resized.movedim(1, -1)


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Return bytes 0 to 255, rounded to nearest; values outside 0 to 1 are clipped, NaN becomes 0.

    Args:
        images: any shape, float, on any device.

    Returns:
        A numpy array of the same shape on the host.
    """
    clipped = images.detach().nan_to_num(nan=0.0).clamp(0.0, 1.0)
    quantised: NDArray[np.uint8] = (clipped * 255.0).round().to(torch.uint8).cpu().numpy()
    return quantised


def save_png(image: Tensor, path: str | Path) -> None:
    """Write one image as PNG, whole or not at all; the same image gives the same bytes.

    Args:
        image: [H, W, 3] colour, or [H, W, 4] with straight alpha, float 0 to 1.
        path: the file; replaced if it exists.

    Raises:
        ShapeError: not one image with 3 or 4 channels.
        ExportError: the folder does not exist.
    """
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ShapeError(f"save_png needs [H, W, 3] or [H, W, 4], got {tuple(image.shape)}.")
    with atomic_path(path) as temporary:
        Image.fromarray(to_uint8(image)).save(temporary, format="PNG")


def encode_png(image: Tensor) -> bytes:
    """Return one image [H, W, 3], float 0 to 1, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def load_png(path: str | Path) -> Tensor:
    """Read a PNG file as [H, W, 3] float32, 0 to 1; an alpha channel is dropped.

    Raises:
        InputFileError: no such file, not a PNG, damaged, or of more than `MAX_PIXELS`.
    """
    try:
        with _unwarned(), Image.open(path, formats=["PNG"]) as picture:
            # Its header is all that has been read so far: a small file may claim any size.
            if picture.width * picture.height > MAX_PIXELS:
                raise InputFileError(
                    f"{path} is a picture of {picture.width} x {picture.height} pixels; at most "
                    f"{MAX_PIXELS} in all are read."
                )
            pixels = np.asarray(picture.convert("RGB"))
    except BROKEN_PICTURE as error:
        raise InputFileError(f"{path} is not a readable PNG file: {error}") from error
    return torch.from_numpy(pixels.astype(np.float32) / 255.0)


@contextmanager
def _unwarned() -> Iterator[None]:
    """Silence Pillow's warning of large pictures; whoever opens one looks at its size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def tile_grid(images: Tensor, columns: int, gap_px: int = 2, fill: Color = WHITE) -> Tensor:
    """Lay images out in rows, the first at the top left.

    Args:
        images: [B, H, W, 3], at least one.
        columns: images per row, at least 1; fewer images make a shorter row.
        gap_px: space between images, none around them.
        fill: colour of gaps and of empty cells.

    Returns:
        [rows H + gaps, columns W + gaps, 3].

    Raises:
        ShapeError: no image, not four dimensions, or `columns` below 1.
    """
    if images.ndim != 4 or images.shape[0] == 0 or columns < 1:
        raise ShapeError(
            "tile_grid needs images [B, H, W, 3] with B >= 1 and at least one column, "
            f"got shape {tuple(images.shape)} and {columns} columns."
        )

    count, height, width, _ = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)

    pitch_y, pitch_x = height + gap_px, width + gap_px
    sheet = images.new_tensor(fill).expand(rows * pitch_y - gap_px, columns * pitch_x - gap_px, 3)
    sheet = sheet.clone()
    for index in range(count):
        top, left = (index // columns) * pitch_y, (index % columns) * pitch_x
        sheet[top : top + height, left : left + width] = images[index]
    return sheet


def label(images: Tensor, texts: Sequence[str]) -> Tensor:
    """Write a short text into the top left corner of each image, readable on any background.

    Args:
        images: [B, H, W, 3] float 0 to 1.
        texts: B lines; an empty one leaves its image unchanged.

    Returns:
        [B, H, W, 3] float32 on the host, quantised to bytes.

    Raises:
        ShapeError: not one text per image.
    """
    if images.ndim != 4 or len(texts) != images.shape[0]:
        raise ShapeError(
            f"label needs one text per image, got {len(texts)} texts "
            f"and shape {tuple(images.shape)}."
        )

    font = ImageFont.load_default(LABEL_PX)
    drawn = []
    for pixels, text in zip(to_uint8(images), texts, strict=True):
        picture = Image.fromarray(pixels)
        if text:
            draw = ImageDraw.Draw(picture)
            draw.text((4, 2), text, fill="black", font=font, stroke_width=2, stroke_fill="white")
        drawn.append(np.asarray(picture))

    return torch.from_numpy(np.stack(drawn).astype(np.float32) / 255.0)

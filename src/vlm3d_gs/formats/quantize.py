"""Integer codes that several splat formats share: opacity bytes, scaled integers, smallest three.

Smallest three: of a unit quaternion the component of largest size is left out and made positive;
the other three lie in -1/sqrt(2)..1/sqrt(2), in their old order. Formats differ in the order of
the components (wxyz or xyzw) and in how they write the three.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.formats.arrays import FloatArray

ByteArray = NDArray[np.uint8]

INV_SQRT2 = 1.0 / math.sqrt(2.0)
"""No component but the largest exceeds this."""
BYTE_EDGE, FLOAT_EDGE = 0.25 / 255.0, 1e-6
"""How near to 0 and 1 an opacity comes that was stored as a byte (a quarter step), or as a float."""
OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
"""Which components remain when one is left out."""


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(logits))
    return (np.where(logits >= 0, 1.0, small) / (1.0 + small)).astype(np.float32)


def logit(opacities: NDArray[np.floating], edge: float = FLOAT_EDGE) -> FloatArray:
    """Return log(p / (1 - p)) with p held `edge` away from 0 and 1, so that it stays finite."""
    held = np.clip(opacities.astype(np.float64), edge, 1.0 - edge)
    result: FloatArray = np.log(held / (1.0 - held)).astype(np.float32)
    return result


def log_of(scales: FloatArray) -> FloatArray:
    """Return logarithms of linear scales: of zero that of the smallest float32, of negatives NaN."""
    tiny = np.finfo(np.float32).tiny
    with np.errstate(invalid="ignore"):
        logs: FloatArray = np.log(np.where(scales == 0, tiny, scales)).astype(np.float32)
    return logs


def to_unorm(values: NDArray[np.floating], bits: int) -> NDArray[np.uint32]:
    """Return numbers of 0..1 as integers of so many bits, rounded and held in range."""
    most = (1 << bits) - 1
    scaled = np.floor(np.asarray(values, np.float64) * most + 0.5)
    return np.clip(scaled, 0, most).astype(np.uint32)


def to_byte(values: NDArray[np.floating]) -> ByteArray:
    """Return numbers of 0..255 as bytes, rounded and held in range."""
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def alpha_bytes(logits: FloatArray) -> ByteArray:
    """Return opacities as bytes, 255 for 1."""
    return to_byte(sigmoid(logits) * np.float32(255.0))


def byte_logits(alphas: ByteArray) -> FloatArray:
    """Return logits of opacity bytes; the inverse of `alpha_bytes` within half a step."""
    return logit(alphas.astype(np.float64) / 255.0, BYTE_EDGE)


def split_largest(quats: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
    """Return the index of each quaternion's largest component, [N], and the other three, [N, 3].

    Args:
        quats: [N, 4] unit quaternions in any order of components.
    """
    largest = np.abs(quats).argmax(1)
    sign = np.where(np.take_along_axis(quats, largest[:, None], 1) < 0, -1.0, 1.0)
    rest = np.take_along_axis(quats, OTHERS[largest], 1) * sign
    return largest, rest.astype(np.float32)


def join_largest(largest: NDArray[np.integer], rest: FloatArray) -> FloatArray:
    """Return [N, 4] quaternions; the inverse of `split_largest` up to sign.

    Args:
        largest: [N] index 0 to 3 of the component left out.
        rest: [N, 3] the others; where their squares sum to more than 1 the left-out one is 0.
    """
    quats = np.zeros((len(rest), 4), np.float32)
    np.put_along_axis(quats, OTHERS[largest], rest, 1)
    left = np.sqrt(np.maximum(0.0, 1.0 - np.square(rest).sum(1)))
    np.put_along_axis(quats, largest[:, None].astype(np.intp), left[:, None].astype(np.float32), 1)
    return quats

"""Integer codes that several splat formats share: opacity bytes, scaled integers, smallest three.

Smallest three: the component of a unit quaternion with the largest absolute value is made positive
and dropped; the other three lie in -1/sqrt(2)..1/sqrt(2) and keep their order. Formats differ in
the order of the components (wxyz or xyzw) and in how they write the three.
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
"""Distance kept from opacity 0 and 1: a quarter step for bytes, less for floats."""
OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
"""Components that remain when one is dropped."""


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(logits))
    return (np.where(logits >= 0, 1.0, small) / (1.0 + small)).astype(np.float32)


def logit(opacities: NDArray[np.floating], edge: float = FLOAT_EDGE) -> FloatArray:
    """Return log(p / (1 - p)) with p clipped `edge` away from 0 and 1, so that it stays finite."""
    clipped = np.clip(opacities.astype(np.float64), edge, 1.0 - edge)
    result: FloatArray = np.log(clipped / (1.0 - clipped)).astype(np.float32)
    return result


def log_of(scales: FloatArray) -> FloatArray:
    """Return logarithms of linear scales; zero counts as the smallest float32, negatives give NaN."""
    tiny = np.finfo(np.float32).tiny
    with np.errstate(invalid="ignore"):
        logs: FloatArray = np.log(np.where(scales == 0, tiny, scales)).astype(np.float32)
    return logs


def to_unorm(values: NDArray[np.floating], bits: int) -> NDArray[np.uint32]:
    """Return numbers in 0..1 as integers of `bits` bits, rounded and clipped."""
    largest = (1 << bits) - 1
    scaled = np.floor(np.asarray(values, np.float64) * largest + 0.5)
    return np.clip(scaled, 0, largest).astype(np.uint32)


def to_byte(values: NDArray[np.floating]) -> ByteArray:
    """Return numbers in 0..255 as bytes, rounded and clipped."""
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
        largest: [N] index 0 to 3 of the dropped component.
        rest: [N, 3] the others; where their squares sum to more than 1 the dropped one is 0.
    """
    quats = np.zeros((len(rest), 4), np.float32)
    np.put_along_axis(quats, OTHERS[largest], rest, 1)
    dropped = np.sqrt(np.maximum(0.0, 1.0 - np.square(rest).sum(1))).astype(np.float32)
    np.put_along_axis(quats, largest[:, None].astype(np.intp), dropped[:, None], 1)
    return quats

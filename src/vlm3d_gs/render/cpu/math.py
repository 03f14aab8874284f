"""Shared by the compiled CPU kernels: compiler options, bit casts, a fast exponential, a task counter.

The kernels are plain loops that LLVM turns into SIMD code. Three habits make it possible: all pixel
planes of a tile lie in one buffer, indices are unsigned, and the exponential is a polynomial with an
integer-to-float bit cast.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from vlm3d_gs.render.cpu.array_functions import load_array_functions
from vlm3d_gs.render.cpu.cache import can_cache

load_array_functions()

FAST_MATH = {"reassoc", "nsz", "contract", "arcp"}
"""Sums may be reordered, once, at compile time; the rules for NaN and infinity stay."""

entry_options: dict[str, Any] = {
    "nogil": True,
    "cache": can_cache(),
    "error_model": "numpy",
    "boundscheck": False,
    "fastmath": FAST_MATH,
}
"""Options of the functions that Python calls: no interpreter lock, compiled code cached between runs."""

kernel_options: dict[str, Any] = {**entry_options, "_nrt": False, "forceinline": True}
"""Options of all functions that those call: no reference counts, whose atomic updates cost more than
the arithmetic. Such a function cannot allocate, so the entry points pass scratch memory down. All of
them are inlined: otherwise the process that compiles a function calls its own copy, and a process
that loads it from the cache the caller's copy, which rounds differently, so that the first run would
differ from all later ones."""

exact_options: dict[str, Any] = {**kernel_options, "fastmath": False}
"""Options of functions that keep from overflow by the order of their operations: reordered, d * (d / c)
becomes d * d / c."""

ZERO, HALF, ONE, TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
LARGEST_SQUARE = np.float32(1e38)
"""A sum of squares that is not below this may have overflowed."""

# Minimax polynomial of 2^f on (-1, 0], relative error 7.5e-8 (tests/render/test_cpu.py).
_E0, _E1, _E2 = np.float32(0.9999999251), np.float32(0.6931422526), np.float32(0.2401721894)
_E3, _E4, _E5 = np.float32(0.0552797228), np.float32(0.0091886118), np.float32(0.0009387883)
_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)


@intrinsic
def bits_to_float(typing_context: Any, bits: Any) -> Any:
    """Reinterpret an int32 as the float32 of the same bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def float_to_bits(typing_context: Any, value: Any) -> Any:
    """Reinterpret a float32 as the uint32 of the same bits; for positive floats the order is kept."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def next_task(typing_context: Any, counter: Any) -> Any:
    """Return the first element of an int64 array and add one to it, atomically."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = cgutils.gep(builder, array.data, context.get_constant(types.intp, 0))
        return builder.atomic_rmw("add", pointer, context.get_constant(types.int64, 1), "seq_cst")

    return types.int64(counter), generate


@njit(**kernel_options)
def floor_within(value: float, low: int, high: int) -> int:
    """Return floor(value) clamped to low..high, for any float, low for NaN.

    A float beyond the integers has no defined conversion, so it is clamped before.
    """
    if not value > low:
        return low
    if not value < high:
        return high
    return math.floor(value)


@njit(**kernel_options)
def ceil_within(value: float, low: int, high: int) -> int:
    """Return ceil(value) clamped to low..high, for any float, low for NaN."""
    if not value > low:
        return low
    if not value < high:
        return high
    return math.ceil(value)


@njit(**kernel_options)
def exp2_negative(y: Any) -> Any:
    """Return 2^y for -126 <= y <= 0 (and a little above), float32, relative error below 4e-7."""
    # 2^y = 2^f 2^whole: the polynomial for the fraction, the exponent bits for the whole part
    whole = np.int32(y)
    f = y - np.float32(whole)
    p = _E0 + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * _E5))))
    return p * bits_to_float((whole + _BIAS) << _MANTISSA_BITS)

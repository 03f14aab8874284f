"""Numba's array functions, loaded without SciPy.

Numba finds out whether SciPy's linear algebra is there by importing it as soon as it loads compiled code, a tenth of a
run's start. Only `numpy.cov` and `numpy.corrcoef` in compiled code ask for the answer; nothing here compiles them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

ASKED = "scipy.linalg"


def load_array_functions() -> None:
    """Load `numba.np.arraymath` as if SciPy were not there, then tell it the truth, for others in this process."""
    if "numba.np.arraymath" in sys.modules or ASKED in sys.modules:
        return

    absent: dict[str, None] = {ASKED: None}  # an import of such a name fails at once
    sys.modules.update(absent)  # type: ignore[arg-type]
    try:
        functions = import_module("numba.np.arraymath")
    finally:
        del sys.modules[ASKED]
    functions._HAVE_BLAS = find_spec("scipy") is not None  # type: ignore[attr-defined]

"""How long torch's threads stay awake between two operations: set before torch is loaded, for it is read only then."""

from __future__ import annotations

import os

SPINS = 10_000
"""Looks that a thread of GNU OpenMP takes for new work before it sleeps, a tenth of a millisecond; it takes 300,000 by
itself. So long it keeps a core busy on which our renderer could work: 1.7 times the time of rendering at 64 px, on two
cores (docs/log/renderer.md). With none at all the many short operations of the networks wait for it to wake."""


def shorten_waits() -> None:
    """Say so to OpenMP, unless the user has said something else. Changes how fast a run is, never its result."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))

"""How long torch's threads stay awake between two operations; read when torch is loaded, so set before."""

from __future__ import annotations

import os

SPINS = 10_000
"""How often an idle thread of GNU OpenMP polls for work before it sleeps: about a tenth of a millisecond. OpenMP's own
300,000 keeps cores busy that our renderer could use: rendering at 64 px takes 1.7 times as long on two cores
(docs/log/renderer.md). With 0 the many short operations of the networks wait for threads to wake."""


def shorten_waits() -> None:
    """Set OpenMP's spin count, unless the user has chosen a policy. Changes the speed of a run, never its result."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))

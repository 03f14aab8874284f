"""Write docs/PARITY.md from the rows of comparisons.py: python tests/parity/table.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from comparisons import csd_difference, pairing_difference, sdi_difference  # noqa: E402
from rows import ROWS  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "PARITY.md"
HEAD = """# Equal to the papers

What this program computes under the name of a published method, held against the code that was
published with it. The tables are written by `python tests/parity/table.py` from the rows of
`tests/parity/rows.py`, and `tests/parity/test_parity.py` measures each error again. Fixtures
hold inputs and outputs of the sources' own functions, run outside of this project at the commit
that is named; where a library that is installed is the source, the test calls it.
`tests/parity/test_half_precision.py` holds a step of each family's network in float32, bfloat16 and
float16 against float64, by the library's own loss of precision.

## Measured

Errors are the greatest difference over the greatest value, at most, in float64 and in float32.

| formula | paper | source | float64 | float32 |
|---|---|---|---|---|
"""
MIDDLE = """
## Different on purpose, or equal by construction

| formula | paper | source | what differs, why, and what it does |
|---|---|---|---|
"""


def page() -> str:
    """Return the whole page."""
    measured = [
        f"| {row.formula} | {row.paper} | {row.source} | {row.bounds[0]:.0e} | {row.bounds[1]:.0e} |\n"
        for row in ROWS
        if row.error is not None
    ]
    figures = {
        "sdi": sdi_difference(),
        "csd": csd_difference(),
        "pairing": pairing_difference(),
    }
    others = [
        f"| {row.formula} | {row.paper} | {row.source} | {row.reason.format(**figures)} |\n"
        for row in ROWS
        if row.error is None
    ]
    return HEAD + "".join(measured) + MIDDLE + "".join(others)


if __name__ == "__main__":
    PAGE.write_text(page())

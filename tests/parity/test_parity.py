"""Each row of docs/PARITY.md is measured again, and the page is what the rows say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import comparisons
import renderer
import rows
import table

MEASURED = [row for row in rows.ROWS if row.error is not None]


@pytest.mark.parametrize("row", MEASURED, ids=[row.formula[:30] for row in MEASURED])
def test_a_formula_equals_its_source(row: rows.Row) -> None:
    assert row.error is not None
    exact, rounded = row.error(torch.float64), row.error(torch.float32)
    assert exact <= row.bounds[0]
    assert rounded <= row.bounds[1]


def test_gsplat_as_installed_gives_what_the_fixture_holds() -> None:
    functions = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat is not installed")
    expected = comparisons.fixture("gsplat")["outputs"]
    for name, value in renderer.as_installed(functions).items():
        torch.testing.assert_close(value, torch.tensor(expected[name], dtype=torch.float64))


def test_the_page_is_what_the_rows_say() -> None:
    assert table.page() == table.PAGE.read_text(), "run python tests/parity/table.py"


def test_no_row_is_left_open() -> None:
    for row in rows.ROWS:
        assert row.source
        assert (row.error is None) == bool(row.reason)
        assert "not measured" not in row.reason
        assert "unknown" not in row.reason
        if row.reason and not row.reason.startswith("Equal: "):
            assert re.search(r"\d|neither ever acts|\{\w+", row.reason), f"{row.formula}: no figure"

"""The table of formats: rows that are complete, and the pages and lists that follow from them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from splat_files import CASES
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.formats.codec import Codec, codec_of
from vlm3d_gs.formats.options import AXES
from vlm3d_gs.formats.registry import FORMATS, MAGIC_BYTES, WRITTEN, SplatFormat, format_of_suffix


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_every_row_is_complete(row: SplatFormat) -> None:
    codec = codec_of(row)
    assert isinstance(codec, Codec)
    assert callable(codec.open)
    assert callable(codec.save) == row.writes
    assert row.frame in AXES
    assert all(len(magic) <= MAGIC_BYTES for magic in row.magic)
    assert row.all_suffixes
    assert all(suffix.startswith(".") for suffix in row.all_suffixes)
    if row.writes:
        assert PRODUCTS[row.product].file == f"scene{row.suffixes[0]}"


def test_names_and_suffixes_are_unique() -> None:
    names = [row.name for row in FORMATS]
    suffixes = [suffix for row in FORMATS for suffix in row.all_suffixes]
    assert max(Counter(names + suffixes).values()) == 1


def test_formats_that_begin_alike_can_be_told_apart() -> None:
    """All but the last of them must look further than the first bytes."""
    for magic, many in Counter(magic for row in FORMATS for magic in row.magic).items():
        alike = [row for row in FORMATS if magic in row.magic]
        assert len(alike) == many
        assert all(codec_of(row).accepts is not None for row in alike[:-1])


def test_every_format_is_written_and_read_by_the_tests() -> None:
    assert {format_of_suffix(f"a{case.suffix}").name for case in CASES} == {
        row.name for row in WRITTEN
    }


def test_the_degree_of_a_row_is_what_its_files_hold() -> None:
    for case in CASES:
        assert format_of_suffix(f"a{case.suffix}").sh_degree == case.most_degree


def test_the_pages_of_conventions_explain_the_axes(repo_root: Path) -> None:
    page = (repo_root / "docs" / "CONVENTIONS.md").read_text()
    assert all(f"| `{frame}` | {words} |" in page for frame, words in AXES.items())

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from contract.source_tree import SOURCE, files

MOST_LINES = 400
MOST_FUNCTION_LINES = 80
MOST_DEPTH = 2
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "misc"}
ALLOWED_BASE = {"guidance/base.py"}

TESTS = Path(__file__).resolve().parents[1]


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", files(), ids=name)
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", files(), ids=name)
def test_no_function_is_too_long(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MOST_FUNCTION_LINES, f"{node.name} has {lines} lines"


def test_no_file_is_a_drawer() -> None:
    for path in files():
        words = {*path.relative_to(SOURCE).with_suffix("").parts}
        assert not words & FORBIDDEN, name(path)
        if path.stem == "base" or path.stem.startswith("base_"):
            assert name(path) in ALLOWED_BASE


def test_the_tree_is_shallow() -> None:
    assert all(len(path.relative_to(SOURCE).parts) <= MOST_DEPTH for path in files())


def test_every_file_states_what_it_owns() -> None:
    for path in files():
        assert ast.get_docstring(ast.parse(path.read_text())), name(path)


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: p.stem)
def test_no_test_file_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES

from __future__ import annotations

import ast
from pathlib import Path

from contract.source_tree import SOURCE, files

MOST_LINES = 400
MOST_FUNCTION_LINES = 80
MOST_DEPTH = 3
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "misc"}

TESTS = Path(__file__).resolve().parents[1]


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def test_no_file_is_too_long() -> None:
    long = {name(path): len(path.read_text().splitlines()) for path in files()}
    assert not {file: lines for file, lines in long.items() if lines > MOST_LINES}


def test_no_function_is_too_long() -> None:
    long = {
        f"{name(path)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert not {function: lines for function, lines in long.items() if lines > MOST_FUNCTION_LINES}


def test_no_file_is_a_drawer() -> None:
    for path in files():
        words = {*path.relative_to(SOURCE).with_suffix("").parts}
        assert not words & FORBIDDEN, name(path)
        assert path.stem != "base", name(path)
        assert not path.stem.startswith("base_"), name(path)


def test_the_tree_is_shallow() -> None:
    assert all(len(path.relative_to(SOURCE).parts) <= MOST_DEPTH for path in files())


def test_every_file_states_what_it_owns() -> None:
    for path in files():
        assert ast.get_docstring(ast.parse(path.read_text())), name(path)


def test_no_test_file_is_too_long() -> None:
    long = {path.name: len(path.read_text().splitlines()) for path in TESTS.rglob("*.py")}
    assert not {file: lines for file, lines in long.items() if lines > MOST_LINES}

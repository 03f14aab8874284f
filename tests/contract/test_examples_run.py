"""Examples in docstrings and in docs/CONVENTIONS.md are run, so that they cannot go stale."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
import torch

from contract.source_tree import modules

OPTIONS = doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = sorted(name for name, path in modules().items() if ">>> " in path.read_text())


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=OPTIONS)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_examples_of_the_conventions_are_true(repo_root: Path) -> None:
    path = repo_root / "docs" / "CONVENTIONS.md"
    result = doctest.testfile(str(path), module_relative=False, optionflags=OPTIONS)
    assert result.attempted > 8
    assert result.failed == 0

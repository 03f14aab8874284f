"""Rules that a parser can check: our own errors, no environment variables, no pickle, no print."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from contract.source_tree import SOURCE, files, tree
from vlm3d_gs.core import errors

OURS = {name for name, value in vars(errors).items() if isinstance(value, type)}
MAY_RAISE = {
    "OSError": {"formats/usd.py"},
    "AttributeError": {"__init__.py"},  # what __getattr__ must raise
    "ValueError": {
        *("config/coerce.py", "runs/checkpoint.py"),  # caught in the same function
        "runs/rows.py",  # as Python's own files do when they are closed
    },
    "Interrupted": {"runs/interrupt.py"},  # the second Ctrl-C, or any signal outside of a run
    "_as_one": {"pipeline.py"},  # one of ours, of several
    "_as_error": {"app/scene.py"},  # likewise
    "unforeseen[0]": {"assembly/products.py"},  # a bug, once everything else is written
    "_two_devices": {"assembly/priors.py"},  # one of ours
    "RunLeftError": {"spread/ranks.py"},  # no error: caught in app/follower.py
    # what a server did wrong: caught in critic/chat.py
    "BadReplyError": {"critic/chat.py", "critic/server.py", "evaluate/judges/server.py"},
    "LookFailedError": {"critic/chat.py"},
    "_FailedAttempt": {"critic/chat.py"},
    # answers of a service: FastAPI's way to say them
    "HTTPException": {"serve/web.py"},
    "_later": {"serve/web.py"},
    "trouble": {"serve/run.py"},  # one of ours, from another thread
    "typer.Exit": {
        "cli/__init__.py",
        "cli/batch.py",
        "cli/serve.py",
        "cli/doctor.py",
        "cli/evaluate.py",
        "cli/generate.py",
        "cli/verify.py",
    },
}
"""Other exceptions, and the files that may raise them."""

MAY_READ_ENVIRONMENT = {
    "render/cpu/cache.py",
    "cli/waiting.py",
    "core/threads.py",
    "setup/environment.py",
}
"""The first knows where Numba's cache lies, the second sets how long threads wait, the third where caches and toolkits
lie, and what a compiler is told; none may change a result."""


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@cache
def statements() -> list[tuple[str, ast.AST]]:
    """Every statement of every file; expressions hold none, and are most of the source."""
    found: list[tuple[str, ast.AST]] = []
    for path in files():
        waiting: list[ast.AST] = [tree(path)]
        while waiting:
            inner = ast.iter_child_nodes(waiting.pop())
            new = [node for node in inner if not isinstance(node, ast.expr)]
            waiting += new
            found += [(name(path), node) for node in new]
    return found


def nodes(words: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield every node of the files whose text matches; no others can hold what is looked for."""
    for path in files():
        if re.search(words, path.read_text()):
            yield from ((name(path), node) for node in ast.walk(tree(path)))


def test_only_our_own_errors_are_raised() -> None:
    wrong = []
    for file, node in statements():
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        raised = ast.unparse(made)
        if raised not in OURS and file not in MAY_RAISE.get(raised, set()):
            wrong.append(f"{file}:{node.lineno} raises {raised}")
    assert not wrong, "\n".join(wrong)


def test_no_environment_variable_changes_a_result() -> None:
    wrong = [
        f"{file}:{node.lineno}"
        for file, node in nodes("environ|getenv")
        if isinstance(node, ast.Attribute)
        and node.attr in ("environ", "getenv")
        and file not in MAY_READ_ENVIRONMENT
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", ["pickle", "dill", "joblib", "cloudpickle", "shelve"])
def test_nothing_is_pickled(library: str) -> None:
    for file, node in statements():
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert library not in ast.unparse(node), f"{file}:{node.lineno}"


UNSAFE = ("torch.load", "torch.save", "eval", "exec", "print")


def test_no_remote_code_and_no_unsafe_load() -> None:
    wrong = []
    for file, node in nodes(r"torch\s*\.\s*(load|save)|\b(eval|exec|print)\s*\(|trust_remote_code"):
        if not isinstance(node, ast.Call):
            continue
        last = getattr(node.func, "attr", getattr(node.func, "id", ""))
        unsafe = any(last == name.rpartition(".")[2] for name in UNSAFE)
        remote = any(keyword.arg == "trust_remote_code" for keyword in node.keywords)
        if remote or (unsafe and ast.unparse(node.func) in UNSAFE):
            wrong.append(f"{file}:{node.lineno} {ast.unparse(node.func)}")
    assert not wrong, "\n".join(wrong)

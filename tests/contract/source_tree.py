"""The package's own source as data for the contract tests: files and their imports, by parsing."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "vlm3d_gs"
PACKAGE = "vlm3d_gs"


@dataclass(frozen=True)
class Import:
    """One import statement's target, seen from the importing module."""

    module: str
    """The importing module, e.g. vlm3d_gs.render.cpu."""
    target: str
    """The imported module, e.g. torch.nn or vlm3d_gs.core.gaussians."""
    in_function: bool
    """Inside a function, so that it happens when that function runs."""
    line: int


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = [PACKAGE, *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    return {module_name(path): path for path in files()}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports() -> list[Import]:
    """All imports of the package, without those only made for type checkers."""
    known = modules()
    found: list[Import] = []
    for module, path in known.items():
        _walk(tree(path), module, False, known, found)
    return found


def _walk(
    node: ast.AST, module: str, inside: bool, known: dict[str, Path], found: list[Import]
) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue  # holds no statement
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                _walk(other, module, inside, known, found)
        elif isinstance(child, ast.Import):
            for alias in child.names:
                found.append(Import(module, alias.name, inside, child.lineno))
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}:{child.lineno}: relative import"
            base = child.module or ""
            for alias in child.names:
                full = f"{base}.{alias.name}"
                target = full if full in known else base
                found.append(Import(module, target, inside, child.lineno))
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            _walk(child, module, inside or function, known, found)

"""The list of all settings: name, value in a preset, what is allowed, and what it means.

Everything is read from the dataclasses of `config`: ranges and choices from annotations, the meaning from the string
under each field.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import types
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm3d_gs.config import Config
from vlm3d_gs.config.bounds import Range, ranges
from vlm3d_gs.config.coerce import is_section, to_text
from vlm3d_gs.config.schedules import Schedule
from vlm3d_gs.core.errors import ConfigError

NOT_SETTINGS = ("prompt", "preset")
"""Fields of `Config` that have options of their own."""
EMPTY = '""'
"""Stands for an empty text."""
KINDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    Schedule: "number or schedule",
    Path: "folder",
    str: "text",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the list."""

    name: str
    """Dotted path, as `--set` takes it."""
    value: str
    """Value in the preset, in the form that `--set` takes."""
    allowed: str
    """Range, choices or kind of value, in words."""
    choices: tuple[str, ...]
    """All values that are allowed, if they can be listed."""
    help: str
    """What it means."""


def list_settings(config: Config, prefix: str = "") -> list[Setting]:
    """Return all settings whose names begin with a prefix, in the order of the dataclasses.

    Raises:
        ConfigError: no setting begins so; the message lists the sections.
    """
    everything = [item for item in _walk(config, "") if item.name not in NOT_SETTINGS]
    found = [item for item in everything if item.name.startswith(prefix)]
    if not found:
        sections = dict.fromkeys(item.name.rpartition(".")[0] for item in everything)
        raise ConfigError(
            f"No setting begins with {prefix!r}. Sections: {', '.join(filter(None, sections))}."
        )
    return found


def print_settings(settings: list[Setting], *, as_json: bool = False) -> None:
    """Print settings: as a table that fits the terminal, one to a line where the output is piped, or as JSON."""
    console = Console(highlight=False, markup=False)

    if as_json:
        text = json.dumps([asdict(item) for item in settings], indent=2)
        console.print(text, soft_wrap=True)
    elif console.is_terminal:
        console.print(_table(settings))
    else:
        width = max(len(item.name) for item in settings)
        for item in settings:
            line = f"{item.name:<{width}} = {item.value or EMPTY}  # {item.allowed}. {item.help}"
            console.print(line, soft_wrap=True)


@cache
def field_help(settings: type) -> dict[str, str]:
    """Return the string under each field of a dataclass, by field name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(settings)))
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)

    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            words = ast.literal_eval(below.value)
            found[ast.unparse(field.target)] = " ".join(words.split())
    return found


def _walk(settings: Any, section: str) -> Iterator[Setting]:
    kind: type = type(settings)
    limits, meanings = ranges(kind), field_help(kind)

    for field, hint in get_type_hints(kind).items():
        name, value = f"{section}{field}", getattr(settings, field)
        if is_section(hint):
            yield from _walk(value, f"{name}.")
            continue

        choices = _choices(hint)
        allowed = _allowed(hint, choices, limits.get(field))
        yield Setting(name, to_text(value), allowed, choices, meanings[field])


def _choices(hint: Any) -> tuple[str, ...]:
    """Return the values of a Literal, also of one inside `X | None` or a tuple; empty for other types."""
    if get_origin(hint) is Literal:
        return tuple(map(str, get_args(hint)))
    return tuple(choice for inner in get_args(hint) for choice in _choices(inner))


def _allowed(hint: Any, choices: tuple[str, ...], limits: Range | None) -> str:
    """Return in words which values a setting takes."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(kind for kind in get_args(hint) if kind is not types.NoneType)
        return f"{_allowed(inner, choices, limits)}, or none"

    if choices:
        listed = ", ".join(choices)
        return f"any of {listed}" if get_origin(hint) is tuple else listed

    if get_origin(hint) is tuple:
        inner, *rest = get_args(hint)
        kind = f"{KINDS[inner]}s, separated by commas" if rest == [...] else "two numbers"
    else:
        kind = KINDS[hint]
    if limits is None:
        return kind
    return f"{kind} {limits}" if str(limits).startswith("in") else f"{kind}, {limits}"


def _table(settings: list[Setting]) -> Table:
    table = Table.grid(padding=(0, 2))
    section = None

    for item in settings:
        # A blank line between sections.
        if section not in (None, item.name.rpartition(".")[0]):
            table.add_row("", "")
        section = item.name.rpartition(".")[0]

        first = Text.assemble((item.value or EMPTY, "cyan"), (f"  ({item.allowed})", "dim"))
        table.add_row(Text(item.name, "bold"), Text.assemble(first, "\n", item.help))

    return table

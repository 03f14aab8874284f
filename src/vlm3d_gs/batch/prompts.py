"""Lists of prompts: .txt, .jsonl, .csv, .parquet or standard input, as items with ids.

A list is read whole and checked before anything runs, so that a mistake in its last line does not show in the morning.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm3d_gs.batch.items import (
    BATCH_DECIDES,
    ID_LETTERS,
    SEED,
    Item,
    Settings,
    Shared,
    content_hash,
    item_config,
)
from vlm3d_gs.core.errors import ConfigError, InputFileError

SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
STDIN = "-"
SHORT = {"seed": SEED, "steps": "train.steps"}
"""Columns that may be named as the options of `generate`."""

ID_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST_NAMED = 5
"""Bad rows that an error names."""

Row = tuple[int, Mapping[str, Any]]
"""Line and columns."""


@dataclass(frozen=True, slots=True)
class PromptList:
    """What a list holds."""

    items: tuple[Item, ...]
    """In the order of the list, each once."""
    repeated: int
    """Rows left out since an earlier one asks for the same."""


def read_prompts(source: str, shared: Shared) -> PromptList:
    """Read and check a list.

    Args:
        source: a file, by its suffix, or `-` for standard input: JSON objects or sentences, one a line.
        shared: settings of the batch, part of the ids.

    Raises:
        InputFileError: the list cannot be read.
        ConfigError: rows are not allowed; the message names the first of them.
        MissingDependencyError: a .parquet without its library.
    """
    rows = _rows(source)
    name = "standard input" if source == STDIN else source
    return collect(rows, shared, name)


def collect(rows: Iterable[Row], shared: Shared, name: str) -> PromptList:
    """Return the items of rows, as `read_prompts` does.

    Args:
        rows: line and columns of each.
        shared: settings of the batch.
        name: of the list, for errors.

    Raises:
        ConfigError: rows are not allowed, or there are none.
    """
    items: dict[str, Item] = {}
    wrong: list[str] = []
    repeated = 0
    check = _Checked(shared)

    for line, row in rows:
        try:
            item = _item(line, row, shared)
            check(item)
            before = items.setdefault(item.id, item)
            if before is not item:
                _expect_same(before, item)
                repeated += 1
        except ConfigError as error:
            wrong.append(f"line {line}: {error}")

    if wrong:
        more = f"\n... and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        shown = "\n".join(wrong[:MOST_NAMED])
        raise ConfigError(f"{len(wrong)} of the rows of {name} are not allowed:\n{shown}{more}")
    if not items:
        raise ConfigError(f"There is no prompt in {name}. Write one on each line.")
    return PromptList(tuple(items.values()), repeated)


class _Checked:
    """Checks the settings of items: once for each combination, since a list has few, and seeds by themselves."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._known = set[Settings]()

    def __call__(self, item: Item) -> None:
        """Raise `ConfigError` for settings that are not allowed."""
        seed = dict(item.settings).get(SEED)
        plain_seed = seed is None or (seed.isdecimal() and len(seed) < 19)
        settings = tuple(pair for pair in item.settings if pair[0] != SEED or not plain_seed)
        if settings not in self._known:
            item_config(replace(item, settings=settings), self._shared, Path("unused"))
            self._known.add(settings)


def _item(line: int, row: Mapping[str, Any], shared: Shared) -> Item:
    """Return a row as an item."""
    columns = dict(row)
    prompt = columns.pop("prompt", None)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigError(f"prompt must be a sentence, got {prompt!r:.60}.")
    prompt = unicodedata.normalize("NFC", " ".join(prompt.split()))

    chosen = columns.pop("id", None)
    settings = tuple(sorted(_flat(columns)))
    content = content_hash(prompt, settings, shared)
    if chosen is None or chosen == "":
        return Item(prompt, settings, content[:ID_LETTERS], content, line)
    if isinstance(chosen, bool) or not ID_ALLOWED.fullmatch(str(chosen)):
        raise ConfigError(
            f"id must be letters, digits, '.', '_' and '-', at most 100, the first a letter or a digit, got "
            f"{str(chosen)[:60]!r}."
        )
    return Item(prompt, settings, str(chosen), content, line)


def _flat(columns: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings by dotted name, as text; empty cells leave a setting as it is."""
    for column, value in columns.items():
        name = f"{prefix}{column}"
        name = SHORT.get(name, name)
        if value is None or value == "" or _is_nan(value):
            continue
        if name in BATCH_DECIDES:
            raise ConfigError(
                f"{name} is the same for the whole batch. Give it as an option, or leave out the column."
            )
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, _text(value)


def _is_nan(value: Any) -> bool:
    """Return whether a number is one that parquet has for a cell without any."""
    return isinstance(value, float) and math.isnan(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(_text(each) for each in value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value).strip()


def _expect_same(before: Item, item: Item) -> None:
    if before.content != item.content:
        raise ConfigError(
            f"id {item.id!r} is that of line {before.line}, which asks for something else. Ids name one asset each."
        )


def _rows(source: str) -> Iterator[Row]:
    if source == STDIN:
        # Read by bytes: the terminal's encoding need not be that of the list.
        return _of_text(_decoded(sys.stdin.buffer.read(), "standard input"), "standard input")

    path = Path(source)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputFileError(
            f"{source} must be a list of prompts ({', '.join(SUFFIXES)}), or - for standard input."
        )
    if suffix == ".parquet":
        from vlm3d_gs.batch.parquet import read_rows

        return iter(read_rows(path))
    try:
        text = _decoded(path.read_bytes(), source)
    except OSError as error:
        raise InputFileError(f"Cannot read {source}: {error.strerror or error}.") from error
    if suffix == ".csv":
        return _of_csv(text, source)
    return _of_json(text, source) if suffix == ".jsonl" else _of_sentences(text)


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputFileError(
            f"{name} is not text in UTF-8 (byte {error.start}). Save it as UTF-8."
        ) from None


def _of_text(text: str, name: str) -> Iterator[Row]:
    """Read what has no suffix: JSON if its first line begins as an object does."""
    return _of_json(text, name) if text.lstrip().startswith("{") else _of_sentences(text)


def _of_sentences(text: str) -> Iterator[Row]:
    """Yield one prompt a line; empty lines, and those that begin with #, are skipped."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, {"prompt": line}


def _of_json(text: str, name: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputFileError(f"{name}, line {number} is not JSON: {error}") from None
        if isinstance(row, str):
            row = {"prompt": row}
        if not isinstance(row, dict):
            raise InputFileError(
                f'{name}, line {number} must be an object such as {{"prompt": "a red cube"}}, got {line[:60]!r}.'
            )
        yield number, row


def _of_csv(text: str, name: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = reader.fieldnames or []
        if "prompt" not in names:
            raise InputFileError(
                f"{name} has no column 'prompt', but {', '.join(map(repr, names)) or 'nothing'}. "
                "Its first line names the columns."
            )
        for row in reader:
            if None in row:
                raise InputFileError(
                    f"{name}, line {reader.line_num} has more cells than columns. Put commas into quotes."
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise InputFileError(f"{name}, line {reader.line_num}: {error}.") from None

"""Typed frozen dataclasses to plain data (what JSON holds) and back, strictly.

Independent of any particular config: everything is read from the annotations of the dataclass. Field types may be bool,
int, float, str, Path, Literal, `X | None`, tuples, Schedule, and nested dataclasses of these.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vlm3d_gs.config.schedules import Schedule, parse
from vlm3d_gs.core.errors import ConfigError

Settings = TypeVar("Settings")

LONGEST = 100
"""Characters of a value in a message."""
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the annotations of a dataclass; evaluating them takes longer than all the rest of a conversion."""
    return get_type_hints(kind)


def to_plain(value: Any) -> Any:
    """Return a dataclass as dicts, lists, numbers and strings, for JSON.

    A constant schedule becomes a number, any other schedule its text form.
    """
    if isinstance(value, Schedule):
        return value.points[0][1] if value.kind == "constant" else str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_text(value: Any) -> str:
    """Return a setting's value as a command line would give it; `coerce` reads it back."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(to_text, value))
    return str(value)


def from_plain(cls: type[Settings], data: Mapping[str, Any], where: str = "") -> Settings:
    """Return the dataclass that plain data describes; missing fields take their defaults.

    Args:
        cls: a dataclass whose field types this module understands.
        data: field name to plain value.
        where: its dotted path, for error messages.

    Raises:
        ConfigError: an unknown key (the known ones are listed), a missing required field, or a
            value of another type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{where or 'The config'} must be a mapping of settings, got {_shown(data)}."
        )

    kind: type = cls
    hints = _hints(kind)
    for key in data:
        if key not in hints:
            raise ConfigError(_unknown(_join(where, str(key)), str(key), hints))

    values = {key: coerce(item, hints[key], _join(where, key)) for key, item in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where or 'The config'} is incomplete: {error}.") from None


def replace_paths(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return a copy of `settings` with fields at dotted paths changed, converted and validated.

    Validation comes after all changes, so settings that limit each other can change together.

    Args:
        settings: a dataclass, possibly of dataclasses.
        changes: path such as `optim.means_lr` -> plain value, or its text from a command line.

    Raises:
        ConfigError: no such path, a path names a whole section, or a value does not fit.
    """
    return _replace(
        settings, {tuple(path.split(".")): value for path, value in changes.items()}, ""
    )


def coerce(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the type of an annotation; text is read as on a command line.

    Args:
        value: a plain value; text is parsed for types other than str.
        hint: the field's type.
        where: dotted path, for the error message.

    Raises:
        ConfigError: the value does not fit the type; the message says what is allowed.
    """
    origin, choices = get_origin(hint), get_args(hint)

    if origin in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return coerce(value, next(c for c in choices if c is not types.NoneType), where)

    if origin is Literal:
        if value not in choices:
            raise ConfigError(
                f"{where} must be one of {', '.join(map(str, choices))}, got {_shown(value)}."
            )
        return value

    if origin is tuple:
        return _coerce_tuple(value, choices, where)

    if hint is Schedule:
        if not isinstance(value, Schedule | int | float | str) or isinstance(value, bool):
            raise ConfigError(f"{where} must be a number or a schedule, got {_shown(value)}.")
        try:
            return parse(value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    if is_dataclass(hint):
        assert isinstance(hint, type)
        return value if isinstance(value, hint) else from_plain(hint, value, where)

    return _coerce_scalar(value, hint, where)


def is_section(hint: Any) -> bool:
    """Return whether a field of this type is a dataclass of settings, not a setting itself."""
    return is_dataclass(hint) and hint is not Schedule


def _coerce_scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is bool:
        text = str(value).lower()
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        raise ConfigError(f"{where} must be true or false, got {_shown(value)}.")

    if hint in (int, float):
        try:
            if isinstance(value, bool):
                raise ValueError
            return _whole(value) if hint is int else float(value)
        except (ValueError, TypeError, OverflowError):
            kind = "a whole number" if hint is int else "a number"
            raise ConfigError(f"{where} must be {kind}, got {_shown(value)}.") from None

    if hint is Path and isinstance(value, str | Path) and value != "":
        return Path(value)
    if hint is str and isinstance(value, str):
        return value
    raise ConfigError(
        f"{where} must be of type {getattr(hint, '__name__', hint)}, got {_shown(value)}."
    )


def _shown(value: Any) -> str:
    """Return a value as a message shows it, cut where it is very long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _whole(value: Any) -> int:
    """Return a whole number, all of its digits kept; raise if it is none."""
    if isinstance(value, str) and value.strip().lstrip("+-").isdigit():
        value = int(value)
    if isinstance(value, int):
        return value
    if float(value) != int(float(value)):
        raise ValueError
    return int(float(value))


def _coerce_tuple(value: Any, hints: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        items: list[Any] = [item.strip() for item in value.split(",") if item.strip()]
    elif isinstance(value, list | tuple):
        items = list(value)
    else:
        raise ConfigError(f"{where} must be a list, got {_shown(value)}.")

    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(coerce(item, hints[0], where) for item in items)
    if len(items) != len(hints):
        raise ConfigError(
            f"{where} must have {len(hints)} values separated by commas, got {_shown(value)}."
        )
    return tuple(coerce(item, hint, where) for item, hint in zip(items, hints, strict=True))


def _replace(settings: Settings, changes: Mapping[tuple[str, ...], Any], where: str) -> Settings:
    kind: type = type(settings)
    hints = _hints(kind)
    inner: dict[str, dict[tuple[str, ...], Any]] = {}
    values: dict[str, Any] = {}

    for (name, *rest), value in changes.items():
        here = _join(where, name)
        if name not in hints:
            raise ConfigError(_unknown(here, name, hints))

        if rest and not is_section(hints[name]):
            unknown = ".".join([here, *rest])
            raise ConfigError(f"{here} is a setting, not a section: {unknown} is unknown.")
        if rest:
            inner.setdefault(name, {})[tuple(rest)] = value
        elif is_section(hints[name]):
            inside = ", ".join(f"{here}.{key}" for key in _hints(hints[name]))
            raise ConfigError(f"{here} is a section, not a setting. Set one of: {inside}.")
        else:
            values[name] = coerce(value, hints[name], here)

    for name, deeper in inner.items():
        values[name] = _replace(getattr(settings, name), deeper, _join(where, name))
    return replace(settings, **values)  # type: ignore[type-var]  # a dataclass, as documented


def _unknown(path: str, key: str, known: Mapping[str, Any]) -> str:
    section = path.rpartition(".")[0]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    guess = f" Did you mean {_join(section, near[0])!r}?" if near else ""
    command = f"vlm3d-gs settings {section}".rstrip()
    return (
        f"Unknown setting {path!r}.{guess} Known here: {', '.join(sorted(known))}. See: {command}"
    )


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name

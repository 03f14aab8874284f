"""Range checks of settings: one wording for all, with the setting, the range and the value."""

from __future__ import annotations

from vlm3d_gs.config.schedules import Schedule
from vlm3d_gs.core.errors import ConfigError


def check_within(name: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless `value` is in [low, high]."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must be in [{low:g}, {high:g}], got {value:g}.")


def check_at_least(name: str, value: int, low: int) -> None:
    """Raise ConfigError if `value` is below `low`."""
    if value < low:
        raise ConfigError(f"{name} must be {low} or more, got {value}.")


def check_device(name: str) -> None:
    """Raise ConfigError unless `name` says a device: auto, cpu, cuda or cuda:N."""
    kind, colon, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and not (kind == "cuda" and index.isdigit())):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}.")


def check_range(name: str, pair: tuple[float, float], low: float, high: float) -> None:
    """Raise ConfigError unless `pair` is ordered and within [low, high]."""
    if not low <= pair[0] <= pair[1] <= high:
        raise ConfigError(
            f"{name} must be two numbers, smaller first, in [{low:g}, {high:g}], got {pair}."
        )


def check_schedule(name: str, schedule: Schedule, low: float, high: float) -> None:
    """Raise ConfigError if the schedule ever leaves [low, high]."""
    if not low <= schedule.low <= schedule.high <= high:
        raise ConfigError(f"{name} must stay in [{low:g}, {high:g}], got {schedule}.")

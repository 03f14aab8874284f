"""Presets: functions that return a complete config.

Every number that differs from a field's default stands here with its reason or its experiment in
docs/LOG.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from vlm3d_gs.config import Config
from vlm3d_gs.errors import ConfigError

PresetName = Literal["mini"]
PRESETS: tuple[PresetName, ...] = get_args(PresetName)


def preset(name: str, prompt: str) -> Config:
    """Return the complete config of a preset for a prompt.

    Args:
        name: one of `PRESETS`.
        prompt: what to make.

    Raises:
        ConfigError: unknown preset; the message lists the known ones.
    """
    match name:
        case "mini":
            return mini(prompt)
        case _:
            raise ConfigError(f"Unknown preset {name!r}. Available: {', '.join(PRESETS)}.")


def mini(prompt: str) -> Config:
    """Return the default: the embedded models, any machine, well under a minute on two cores."""
    return Config(prompt=prompt, preset="mini", out=run_folder(prompt))


def run_folder(prompt: str) -> Path:
    """Return where a run goes when nobody says: runs/ and the prompt as a file name.

    Example:
        >>> run_folder("A red cube!").as_posix()
        'runs/a-red-cube'
    """
    name = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60].rstrip("-")
    return Path("runs") / (name or "unnamed")

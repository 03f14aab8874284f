"""What a batch makes: one prompt with its own settings, known by an id, and the settings that all of them share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import PRESETS, preset
from vlm3d_gs.config.recipes import RecipeName, apply_recipe
from vlm3d_gs.config.scenes import for_objects
from vlm3d_gs.core.errors import ConfigError

ASSETS = "assets"
"""Folder of the assets in that of a batch; a folder of two letters each keeps directories short."""
ID_LETTERS = 16
SEED = "train.seed"
BATCH_DECIDES = ("out", "device", "offline", "prompt")
"""Settings that are those of a batch: it has one folder, its workers one device each."""

Settings = tuple[tuple[str, str], ...]
"""Dotted name and value as text, by name."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the command says for all prompts of a batch."""

    preset: str = "mini"
    """Settings to start from."""
    recipe: RecipeName | None = None
    """Published procedure that changes them."""
    settings: Settings = ()
    """Changes to both."""
    seeds: int | None = None
    """How many seeds compete for a prompt; None is one, or what a budget allows."""
    pick_at: float | None = None
    """Fraction of a run after which seeds are compared; None is the default of `generate`."""
    budget_s: float | None = None
    """Seconds an asset should take, spent on seeds; None for no such choice."""

    def plain(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Shared:
        """Return what `plain` gave, after a way through JSON."""
        pairs = tuple((str(name), str(value)) for name, value in data["settings"])
        return cls(**{**data, "settings": pairs})


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of a batch."""

    prompt: str
    """The sentence."""
    settings: Settings = ()
    """Its own settings, which win over those of the batch; `preset` among them chooses another start."""
    id: str = ""
    """Name of its asset: the user's, or its content's."""
    content: str = ""
    """Hash of all that decides the asset; an id may not change it."""
    line: int = 0
    """Where the list has it, from 1."""

    @property
    def folder(self) -> PurePosixPath:
        """Folder of its asset, inside that of the batch."""
        return PurePosixPath(ASSETS) / self.id[:2].lower() / self.id

    @property
    def seed(self) -> int:
        """The seed that the list gives it, else 0."""
        return int(dict(self.settings).get(SEED, "0"))

    def plain(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Item:
        """Return what `plain` gave, after a way through JSON."""
        pairs = tuple((str(name), str(value)) for name, value in data["settings"])
        return cls(**{**data, "settings": pairs})


def content_hash(prompt: str, settings: Settings, shared: Shared) -> str:
    """Return the hash of what decides an asset: the prompt and every setting that is said, hexadecimal.

    Defaults are not part of it, so that a list keeps its ids when a new version changes one.
    """
    said = [prompt, dict(settings), shared.plain()]
    text = json.dumps(said, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def item_config(item: Item, shared: Shared, out: Path, *, by_objects: bool = False) -> Config:
    """Return the resolved settings of one asset, as `generate` takes them.

    Args:
        item: the prompt and its own settings.
        shared: settings of the batch.
        out: the asset's folder.
        by_objects: whether the objects of the prompt are made one by one, as `is_scene` says.

    Raises:
        ConfigError: an unknown setting or preset, or a value that is not allowed.
    """
    own = dict(item.settings)
    name = own.pop("preset", shared.preset)
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, got {name[:40]!r}.")

    start = apply_recipe(preset(name, item.prompt), shared.recipe)
    if by_objects:
        start = for_objects(start)
    # Together, since settings may limit each other.
    return apply_settings(start, {**dict(shared.settings), **own, "out": out})

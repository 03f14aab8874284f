"""Which runs show which prompts of a tournament, and which methods have pictures there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.evaluate.gpteval.dump import Source
from vlm3d_gs.evaluate.gpteval.grids import count_views
from vlm3d_gs.evaluate.gpteval.tournament import Tournament, require_prompts
from vlm3d_gs.evaluate.runs import find_runs
from vlm3d_gs.runs.record import SPLAT, read_record

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> str:
    """Return a method's name if it can be that of a folder.

    Raises:
        ConfigError: it cannot.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"A method's name may have letters, digits, '.', '_' and '-', 64 in all, and begin with a letter or "
            f"digit; got {name[:80]!r}. Choose one with --name."
        )
    return name


def find_sources(runs: Path, tournament: Tournament) -> tuple[list[Source], list[Path]]:
    """Return the runs that show a prompt of the tournament, and those that do not.

    Runs of one prompt are numbered in the order of their seeds, then of their paths.

    Raises:
        InputFileError: there are no runs.
        ConfigError: none of them shows a prompt of the tournament.
    """
    found: dict[int, list[tuple[int, Path]]] = {}
    others = []
    for run in find_runs(runs):
        record = read_record(run)
        prompt_id = tournament.prompt_id(record.prompt)
        if prompt_id is None:
            others.append(run)
        else:
            found.setdefault(prompt_id, []).append((_seed(record.config), run))

    require_prompts(tournament, len(found))
    sources = [
        Source(run / SPLAT, prompt_id, number, seed if seed >= 0 else None)
        for prompt_id in sorted(found)
        for number, (seed, run) in enumerate(sorted(found[prompt_id]))
    ]
    return sources, others


def _seed(config: dict[str, Any]) -> int:
    """Return the seed of a run's config, -1 without one."""
    settings = config.get("config", config)
    train = settings.get("train") if isinstance(settings, dict) else None
    seed = train.get("seed") if isinstance(train, dict) else None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else -1


def find_methods(
    tournament: Tournament, names: Sequence[str] | None = None
) -> dict[str, list[int]]:
    """Return the prompts that each method of a tournament has whole pictures of, those of its first scene.

    Args:
        tournament: whose folder is looked through.
        names: the methods that are wanted; None is all.

    Raises:
        InputFileError: a wanted one is not there.
    """
    folder = tournament.methods
    there = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
    missing = sorted(set(names or ()) - set(there))
    if missing:
        raise InputFileError(
            f"{folder} has no pictures of {', '.join(missing)}; it has {', '.join(there) or 'none'}."
        )
    return {name: _prompts(folder / name, len(tournament.prompts)) for name in names or there}


def _prompts(method: Path, count: int) -> list[int]:
    numbers = [int(path.name) for path in method.iterdir() if path.name.isdecimal()]
    return sorted(
        number
        for number in numbers
        if number < count and count_views(method / str(number) / "0") > 0
    )

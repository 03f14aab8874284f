"""A tournament's folder in GPTEval3D's layout: criteria, ensembles, prompts, frozen ratings, methods.

Read from the user's own checkout, which we do not ship: its data have no licence.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import ConfigError, InputFileError

GRIDS = (1, 4, 9)
"""Numbers of views that fill a square grid, as the published ensembles use."""
MOST_COMPARISONS = 100_000
MOST_PROMPT_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Ensemble:
    """One way to ask about a pair."""

    views: int
    """Views of each object, in a square grid."""
    rgb: bool
    """Whether pictures are shown."""
    normal: bool
    """Whether normals are shown, below the pictures."""
    dimensions: tuple[int, ...]
    """Criteria that are asked about, in the order in which the answer must give them."""
    comparisons: int
    """Number of comparisons of this kind."""
    instruction: Path
    """File with the question."""


@dataclass(frozen=True, slots=True)
class Tournament:
    """Everything that a tournament fixes."""

    folder: Path
    """Where it is."""
    criteria: tuple[str, ...]
    """Names, in the order of their numbers."""
    ensembles: tuple[Ensemble, ...]
    """At least one."""
    prompts: tuple[str, ...]
    """Sentences, by their index."""
    prompt_ids: tuple[int, ...]
    """Those of them that take part."""
    frozen: tuple[dict[str, float], ...]
    """Ratings of the published methods, for each criterion; empty where it has none."""

    @property
    def methods(self) -> Path:
        """Folder of the methods' pictures."""
        return self.folder / "methods"

    def prompt_id(self, prompt: str) -> int | None:
        """Return the index of a prompt, whatever its case, its spaces and a full stop at its end; None for another."""
        found = {_plain(text): index for index, text in enumerate(self.prompts)}
        return found.get(_plain(prompt))


def _plain(prompt: str) -> str:
    return " ".join(prompt.lower().split()).rstrip(".")


def read_tournament(folder: str | Path) -> Tournament:
    """Read config.json and prompts.json of a tournament.

    Raises:
        InputFileError: a file is missing or is not what GPTEval3D describes.
    """
    place = Path(folder)
    config, prompts = _json(place / "config.json"), _json(place / "prompts.json")
    if not isinstance(config, dict):
        raise InputFileError(_wrong(place / "config.json", "it must hold an object"))
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise InputFileError(_wrong(place / "prompts.json", "it must be a list of texts"))

    criteria = config.get("criteria")
    if not isinstance(criteria, list) or not criteria:
        raise InputFileError(
            _wrong(place / "config.json", "criteria must be a list of pairs of name and text")
        )
    names = tuple(str(one[0] if isinstance(one, list) and one else one) for one in criteria)

    rows = config.get("ensembles")
    if not isinstance(rows, list) or not rows:
        raise InputFileError(
            _wrong(place / "config.json", "ensembles must be a list with an entry")
        )
    ensembles = tuple(_ensemble(place, row, len(names)) for row in rows)

    ids = config.get("prompt_ids", list(range(len(prompts))))
    if not isinstance(ids, list) or not all(_whole(one, 0, len(prompts) - 1) for one in ids):
        raise InputFileError(
            _wrong(place / "config.json", f"prompt_ids must be of 0 to {len(prompts) - 1}")
        )

    frozen = _frozen(place, config.get("scores"), len(names))
    return Tournament(place, names, ensembles, tuple(prompts), tuple(sorted(set(ids))), frozen)


def _ensemble(place: Path, row: Any, criteria: int) -> Ensemble:
    path = place / "config.json"
    if not isinstance(row, dict):
        raise InputFileError(_wrong(path, "an ensemble must be an object"))
    views, dimensions = row.get("num_views"), row.get("dimensions")
    if views not in GRIDS:
        raise InputFileError(
            _wrong(path, f"num_views must be one of {', '.join(map(str, GRIDS))}, not {views!r}")
        )
    if (
        not isinstance(dimensions, list)
        or not dimensions
        or not all(_whole(one, 0, criteria - 1) for one in dimensions)
    ):
        raise InputFileError(
            _wrong(path, f"dimensions must be numbers of 0 to {criteria - 1}, not {dimensions!r}")
        )
    if not _whole(row.get("num_comparisons"), 1, MOST_COMPARISONS):
        raise InputFileError(
            _wrong(path, f"num_comparisons must be a number of 1 to {MOST_COMPARISONS}")
        )
    rgb, normal = bool(row.get("rgb")), bool(row.get("normal"))
    if not (rgb or normal):
        raise InputFileError(_wrong(path, "an ensemble must show rgb or normal"))

    name = row.get("gpt_prompt")
    instruction = place / str(name)
    inside = isinstance(name, str) and instruction.resolve().is_relative_to(place.resolve())
    if not inside or not instruction.is_file():
        raise InputFileError(
            _wrong(path, f"gpt_prompt must name a file in the tournament's folder, not {name!r}")
        )
    return Ensemble(views, rgb, normal, tuple(dimensions), row["num_comparisons"], instruction)


def _frozen(place: Path, scores: Any, criteria: int) -> tuple[dict[str, float], ...]:
    """Return the ratings by criterion, from a list or from an object with their numbers as names."""
    if scores is None:
        return tuple({} for _ in range(criteria))
    if isinstance(scores, dict):
        scores = [scores.get(str(index), {}) for index in range(criteria)]
    if not isinstance(scores, list) or len(scores) != criteria:
        raise InputFileError(
            _wrong(
                place / "config.json", f"scores must have one entry for each of {criteria} criteria"
            )
        )

    frozen = []
    for one in scores:
        if not isinstance(one, dict) or not all(_finite(value) for value in one.values()):
            raise InputFileError(
                _wrong(place / "config.json", "scores must hold a finite number for each method")
            )
        frozen.append({str(name): float(value) for name, value in one.items()})
    return tuple(frozen)


def read_instruction(ensemble: Ensemble) -> str:
    """Return the question of an ensemble.

    Raises:
        InputFileError: the file cannot be read as text, or is too long to be one.
    """
    try:
        data = ensemble.instruction.read_bytes()
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputFileError(f"Cannot read {ensemble.instruction}: {error}") from error
    if not text.strip() or len(data) > MOST_PROMPT_BYTES:
        raise InputFileError(
            f"{ensemble.instruction} must hold a question of at most {MOST_PROMPT_BYTES} bytes."
        )
    return text


def require_prompts(tournament: Tournament, found: int) -> None:
    """Raise unless some runs show a prompt of the tournament.

    Raises:
        ConfigError: none does.
    """
    if found == 0:
        some = "; ".join(repr(prompt) for prompt in tournament.prompts[:3])
        raise ConfigError(
            f"None of the runs has one of the {len(tournament.prompts)} prompts of {tournament.folder}. "
            f"Generate scenes for its prompts.json first, e.g. {some}."
        )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputFileError(
            f"Cannot read {path}: {error}. A tournament's folder has config.json, prompts.json, gpt_prompts/ and "
            "methods/, e.g. data/tournament-v0 of a checkout of github.com/3DTopia/GPTEval3D."
        ) from error


def _wrong(path: Path, what: str) -> str:
    return f"{path} is no tournament of GPTEval3D's: {what}."


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

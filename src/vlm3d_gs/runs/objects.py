"""The objects of a finished scene as files, found by their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.runs.folder import SCENE_FILE


def object_files(splat: Path, names: Sequence[str]) -> list[Path]:
    """Return the files of some objects of the scene that a splat belongs to, each in place.

    Args:
        splat: a file in the folder of a run of several objects, or that folder.
        names: of objects, as scene.json has them.

    Raises:
        InputFileError: there is no scene of objects beside the splat, or what says so is damaged.
        ConfigError: no object has such a name; the message lists those that there are.
    """
    folder = splat if splat.is_dir() else splat.parent
    try:
        rows = json.loads((folder / SCENE_FILE).read_text(encoding="utf-8"))["objects"]
        files = {str(row["name"]): folder / str(row["file"]) for row in rows}
    except OSError:
        raise InputFileError(
            f"{splat} is no scene of several objects: there is no {SCENE_FILE} beside it. Leave --only out, or give "
            "the scene.ply of a run that has one."
        ) from None
    except (ValueError, LookupError, TypeError) as error:
        raise InputFileError(f"{folder / SCENE_FILE} is damaged: {error!r}.") from None

    for name in names:
        if name not in files:
            raise ConfigError(
                f"The scene of {splat} has no object {name!r}. Its objects: {', '.join(files)}."
            )
    return [files[name] for name in dict.fromkeys(names)]

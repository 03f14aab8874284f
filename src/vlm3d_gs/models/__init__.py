"""Where model weights are: inside the package, in a folder, in the hub's cache, or to be fetched.

This file is quick to import; the hub's library is loaded when neither the package nor a folder has the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Literal

from vlm3d_gs.core.errors import MissingDependencyError
from vlm3d_gs.models.catalogue import CATALOGUE, ModelEntry, entry
from vlm3d_gs.models.layout import require_folder

__all__ = [
    "CATALOGUE",
    "Embedded",
    "ModelEntry",
    "embedded_weights",
    "entry",
    "locate",
]

Embedded = Literal["prior", "critic"]


def embedded_weights(name: Embedded) -> Path:
    """Return the folder of an embedded model.

    Args:
        name: `prior` is the diffusion pipeline, `critic` the vision-language model.

    Raises:
        MissingDependencyError: the folder is absent or holds no weights, as in an incomplete
            installation.
    """
    folder = Path(str(files("vlm3d_gs"))) / "mini" / "weights" / name
    if not any(folder.rglob("*.safetensors")):
        raise MissingDependencyError(
            f"The embedded {name} is missing: no .safetensors file under {folder}. The "
            f"installation is incomplete; install the package again, or train the model: "
            f"python -m vlm3d_gs.mini.train --what {name}"
        )
    return folder


def locate(
    model: str | None,
    family: str,
    *,
    offline: bool = False,
    cache: Path | None = None,
    endpoint: str | None = None,
    say: Callable[[str], None] | None = None,
    progress: bool = True,
) -> Path:
    """Return the folder that holds a model's weights, fetching them if need be.

    A folder of the user comes first, then the embedded weights, then the hub's cache for each id in order, then the hub
    for each id in order. No code of a repository is fetched, and no pickle.

    Args:
        model: folder, hub id (owner/name) or catalogue name; None takes the ids of the family.
        family: catalogue name, which says what files such a model has.
        offline: never ask the hub.
        cache: the hub's cache; None is the user's own (HF_HOME).
        endpoint: address of the hub; None is the user's own (HF_ENDPOINT).
        say: told in one line what is fetched before it is.
        progress: show the hub library's bars while fetching.

    Raises:
        ModelError: no such folder, only pickles in it, every id failed (the message names each with its reason), or the
            disk is too full.
        MissingDependencyError: the embedded weights are not in this installation.
    """
    wanted = entry(family)
    if model is not None:
        folder = Path(model).expanduser()
        if folder.exists():
            return require_folder(folder, wanted)
        if model in CATALOGUE:
            wanted, model = CATALOGUE[model], None
    if model is None and wanted.embedded:
        return embedded_weights(wanted.role)

    from vlm3d_gs.models.hub import find

    return find(
        model, wanted, offline=offline, cache=cache, endpoint=endpoint, say=say, progress=progress
    )

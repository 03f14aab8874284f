"""Where model weights are: inside the package, in a folder, in the hub's cache, or still to be fetched.

Quick to import: the hub's library is loaded only when neither the package nor a folder has the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from vlm3d_gs.core.errors import MissingDependencyError
from vlm3d_gs.models.catalogue import (
    CATALOGUE,
    ModelEntry,
    Role,
    catalogue_entry,
    family_entry,
)
from vlm3d_gs.models.layout import require_folder

__all__ = [
    "CATALOGUE",
    "ModelEntry",
    "catalogue_entry",
    "embedded_weights",
    "family_entry",
    "locate",
]


def embedded_weights(role: Role) -> Path:
    """Return the folder of an embedded model.

    Args:
        role: `prior` is the diffusion pipeline, `critic` the vision-language model.

    Raises:
        MissingDependencyError: the folder is absent or holds no weights, as in an incomplete
            installation.
    """
    folder = Path(str(files("vlm3d_gs"))) / "mini" / "weights" / role
    if not any(folder.rglob("*.safetensors")):
        raise MissingDependencyError(
            f"The embedded {role} is missing: no .safetensors file under {folder}. The "
            f"installation is incomplete; install the package again, or train the model: "
            f"python -m vlm3d_gs.mini.train --what {role}"
        )
    return folder


def locate(
    model: str | None,
    family: str,
    *,
    offline: bool = False,
    announce: Callable[[str], None] | None = None,
    progress: bool = True,
) -> Path:
    """Return the folder that holds a model's weights, fetching them if necessary.

    The user's own folder comes first, then the embedded weights, then the hub's cache for each id in order, then the
    hub for each id in order. Neither pickles nor code are ever fetched. The cache and the hub's address are those of
    huggingface_hub (HF_HOME, HF_ENDPOINT).

    Args:
        model: folder, hub id (owner/name) or catalogue name; None uses the ids of the family.
        family: catalogue name, which determines what files such a model has.
        offline: never contact the hub.
        announce: called with one line before a download starts.
        progress: show the hub library's progress bars during a download.

    Raises:
        ModelError: no such folder, only pickles in it, every id failed (the message gives the reason of each), or the
            disk is too full.
        MissingDependencyError: the embedded weights are not in this installation.
    """
    entry = catalogue_entry(family)

    if model is not None:
        folder = Path(model).expanduser()
        if folder.exists():
            return require_folder(folder, entry)
        if model in CATALOGUE:
            entry, model = CATALOGUE[model], None

    if model is None and entry.embedded:
        return embedded_weights(entry.role)

    from vlm3d_gs.models.hub import find

    return find(model, entry, offline=offline, announce=announce, progress=progress)

"""Where model weights are: for now the small ones that travel inside the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

from vlm3d_gs.errors import MissingDependencyError

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

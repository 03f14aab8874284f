"""The folder of a diffusion pipeline in diffusers' layout: its list of components, their settings and files.

Plain JSON and file names, so that whoever only asks what a folder holds loads no library.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import ConfigError, InputFileError

PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


def read_components(folder: Path) -> dict[str, Any]:
    """Return `model_index.json`: component -> [library, class], and settings of the pipeline.

    Raises:
        ConfigError: the file is missing.
        InputFileError: it is not JSON.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        raise ConfigError(
            f"{folder} is not a diffusion pipeline: it has no model_index.json. Give a folder in diffusers' "
            "layout, such as `vlm3d-gs models pull` writes."
        )
    return read_settings(path)


def network_component(components: dict[str, Any], folder: Path) -> str:
    """Return the name of the folder that holds the denoising network: `unet` or `transformer`.

    Raises:
        ConfigError: the pipeline has neither.
    """
    for name in ("unet", "transformer"):
        if has_component(components, name):
            return name
    present = [name for name in components if has_component(components, name)]
    raise ConfigError(
        f"{folder} has no denoising network: model_index.json names neither unet nor transformer, but "
        f"{', '.join(present) or 'nothing'}. Give a text-to-image pipeline."
    )


def has_component(components: dict[str, Any], name: str) -> bool:
    """Return whether a pipeline has a component; absent ones are written as a pair of nulls."""
    value = components.get(name)
    return isinstance(value, list) and len(value) == 2 and value[1] is not None


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a JSON file.

    Raises:
        ConfigError: the file is missing.
        InputFileError: it does not hold a JSON object.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing: the pipeline is incomplete. Fetch the model's files again."
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputFileError(f"{path} is not JSON: {error}. Fetch the file again.") from error
    if not isinstance(settings, dict):
        raise InputFileError(f"{path} must hold a JSON object. Fetch the file again.")
    return settings


def weights_variant(folder: Path, stem: str) -> str | None:
    """Return which safetensors of a component to read: None for the plain ones, `fp16` if there are only those.

    Args:
        folder: of the component.
        stem: `diffusion_pytorch_model`, or `model` for transformers.

    Raises:
        ConfigError: there are no safetensors; the message names a pickle if there is one.
    """
    for variant in (None, "fp16"):
        infix = "" if variant is None else f".{variant}"
        names = (f"{stem}{infix}.safetensors", f"{stem}.safetensors.index{infix}.json")
        if any((folder / name).is_file() for name in names):
            return variant
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ConfigError(
            f"{folder} has its weights only as {pickles[0]}, a pickle, which can run code when it is read. "
            f"Allowed is {stem}.safetensors. Choose a repository that has one, or convert the file on a machine "
            "that you can afford to lose."
        )
    raise ConfigError(
        f"{folder} has no weights: {stem}.safetensors is missing. Fetch the model's files again."
    )


def unreadable(folder: Path, error: Exception) -> str:
    """Return an error message about weights that a library could not read."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"The weights in {folder} cannot be read: {reason} Fetch the model's files again."


def require_complete(folder: Path, missing: Collection[str]) -> None:
    """Refuse a network with tensors that no file holds; the libraries would initialise them at random.

    Raises:
        InputFileError: there is at least one such tensor.
    """
    if missing:
        raise InputFileError(
            f"The weights in {folder} lack {len(missing)} tensors of the network, such as {min(missing)}. "
            "config.json and weights must come from the same model; fetch them again."
        )

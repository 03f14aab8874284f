"""Which files of a published model are needed, told from their names alone.

A part (a sub-folder such as `unet`, or the folder itself) holds settings and at most one set of weights that is used.
Repositories often keep several sets side by side: `model.safetensors`, `model.fp16.safetensors`,
`diffusion_pytorch_model.non_ema.safetensors`. One is chosen; pickles and code never are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from vlm3d_gs.core.errors import ModelError
from vlm3d_gs.models.catalogue import ModelEntry

TO_FETCH = ("fp16", "")
"""Sets of weights worth fetching, best first: half precision is half the download; "" has no variant in its name."""
TO_LOAD = ("", "fp16")
"""Sets of weights that are loaded from a folder, best first, as guidance.loading does."""
NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "")
"""Parts that hold weights; the others hold settings only."""
SETTINGS_SUFFIXES = (".json", ".txt", ".model", ".jinja")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?"
    r"(?:-(?P<shard>\d{5})-of-(?P<n_shards>\d{5}))?(?:\.(?P<variant_last>\w+))?\.safetensors"
)
"""`model.fp16-00001-of-00002.safetensors` and the older `model-00001-of-00002.fp16.safetensors`."""
INDEX = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?\.safetensors\.index"
    r"(?:\.(?P<variant_last>\w+))?\.json"
)


def needed_files(names: Iterable[str], parts: Collection[str]) -> list[str]:
    """Return which files of a repository are worth fetching, sorted: one set of weights a part, and the settings.

    Args:
        names: paths inside the repository, with slashes.
        parts: sub-folders wanted; the empty name is the repository's root.
    """
    names, chosen = list(names), set()
    for part in parts:
        inside = _inside(names, part)
        chosen |= {_joined(part, name) for name in _chosen_weights(inside, TO_FETCH)}
        chosen |= {
            _joined(part, name)
            for name in inside
            if name.endswith(SETTINGS_SUFFIXES) and not INDEX.fullmatch(name)
        }
    return sorted(chosen | ({"model_index.json"} & set(names)))


def problems(names: Iterable[str], parts: Collection[str]) -> list[str]:
    """Return what the parts lack, one sentence fragment each; nothing when they are complete.

    Args:
        names: paths that are there, with slashes.
        parts: sub-folders that must be complete; the empty name is the root.
    """
    names, found = list(names), []
    for part in parts:
        inside, label = _inside(names, part), part or "the folder"
        if not inside:
            found.append(f"{label}: absent")
        elif part in NETWORKS:
            found += [f"{label}: {lack}" for lack in _lacks_of_weights(inside)]
    return found


def local_files(folder: Path) -> list[str]:
    """Return the files under a folder, as paths relative to it with slashes; broken links are left out."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def local_parts(folder: Path, wanted: Collection[str]) -> tuple[str, ...]:
    """Return the wanted parts that the folder's own model_index.json does not leave out by naming them null.

    A file that cannot be read leaves nothing out.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError):
        return tuple(wanted)
    absent = {name for name, value in index.items() if value == [None, None]}
    return tuple(part for part in wanted if part not in absent)


def local_problems(folder: Path, wanted: ModelEntry) -> list[str]:
    """Return what a folder lacks of a model of the catalogue, as `problems` does."""
    names = local_files(folder)
    found = [] if wanted.marker in names else [f"{wanted.marker}: absent"]
    return found + problems(names, local_parts(folder, wanted.parts))


def require_folder(folder: Path, wanted: ModelEntry) -> Path:
    """Return a folder of the user's, refused when its weights cannot be read without a pickle.

    What is in the files is left to the loader, and to `vlm3d-gs models check`.

    Raises:
        ModelError: it is a file, it holds no weights, or a part holds only pickles.
    """
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is a file; give the folder of a whole model, as save_pretrained writes it. Single checkpoint "
            f"files are not read."
        )
    names = local_files(folder)
    parts = [p for p in local_parts(folder, wanted.parts) if p in NETWORKS and _inside(names, p)]
    lacks = problems(names, parts)
    if lacks or not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"The folder {folder} cannot be used: {'; '.join(lacks) or 'it holds no .safetensors file'}. Needed is a "
            f"folder as save_pretrained writes it, with .safetensors weights; pickles are never loaded."
        )
    return folder


def chosen_weights(folder: Path, part: str) -> list[Path]:
    """Return the weights of a local part that are used, shards in order."""
    names = _chosen_weights(_inside(local_files(folder), part), TO_LOAD)
    return [folder / part / name for name in names if name.endswith(".safetensors")]


def chosen_index(folder: Path, part: str) -> Path | None:
    """Return the index of the shards of a local part, None where the weights are one file."""
    names = _chosen_weights(_inside(local_files(folder), part), TO_LOAD)
    return next((folder / part / name for name in names if INDEX.fullmatch(name)), None)


def _inside(names: Iterable[str], part: str) -> list[str]:
    """Return the names of the files directly in a part."""
    return [name.rpartition("/")[2] for name in names if name.rpartition("/")[0] == part]


def _joined(part: str, name: str) -> str:
    return f"{part}/{name}" if part else name


def _variant(name: str) -> str | None:
    """Return the variant of a weight file or index, "" for none; None for other files."""
    match = WEIGHTS.fullmatch(name) or INDEX.fullmatch(name)
    return None if match is None else match["variant"] or match["variant_last"] or ""


def _chosen_weights(inside: Iterable[str], variants: tuple[str, ...]) -> list[str]:
    """Return the best set of weights with its index; the weight files come first, in order."""
    inside = sorted(inside)
    for variant in variants:
        same = [name for name in inside if _variant(name) == variant]
        if any(name.endswith(".safetensors") for name in same):
            return sorted(same, key=lambda name: (name.endswith(".json"), name))
    return []


def _lacks_of_weights(inside: list[str]) -> list[str]:
    chosen = [name for name in _chosen_weights(inside, TO_LOAD) if name.endswith(".safetensors")]
    lacks = [] if "config.json" in inside else ["config.json is absent"]
    if not chosen:
        pickles = [name for name in inside if name.endswith(PICKLE_SUFFIXES)]
        only = f"only pickles ({', '.join(pickles)})" if pickles else "no .safetensors weights"
        return [*lacks, only]
    matches = [match for name in chosen if (match := WEIGHTS.fullmatch(name))]
    n_shards = max(int(match["n_shards"] or 1) for match in matches)
    if len(chosen) < n_shards:
        lacks.append(f"{len(chosen)} of {n_shards} shards")
    return lacks

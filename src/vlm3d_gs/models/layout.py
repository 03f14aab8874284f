"""Which files of a published model are needed, chosen by name alone.

A component (a sub-folder such as `unet`, or the folder itself) holds settings and at most one set of weights that is
used. Repositories often keep several sets side by side: `model.safetensors`, `model.fp16.safetensors`,
`diffusion_pytorch_model.non_ema.safetensors`. Glob patterns cannot say "fp16 where there is one, else the plain file",
so the names are chosen here and given to the hub's library as they are. Pickles and code are never chosen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from vlm3d_gs.core.errors import ModelError
from vlm3d_gs.models.catalogue import ModelEntry

VARIANTS_TO_FETCH = ("fp16", "")
"""Best first: half precision is half the download; "" stands for names without a variant."""
VARIANTS_TO_LOAD = ("", "fp16")
"""Best first, in the order in which `prior.loading` looks for them in a local folder."""
NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "")
"""Components with weights; the others hold settings only."""
SETTINGS_SUFFIXES = (".json", ".txt", ".model", ".jinja")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-\d{5}-of-(?P<n_shards>\d{5}))?(?:\.(\w+))?"
    r"\.safetensors(?:\.index(?:\.(\w+))?\.json)?"
)
"""Weight files and the indices of shards. The variant stands in one of three places: `model.fp16-00001-of-00002`, the
older `model-00001-of-00002.fp16`, and `model.safetensors.index.fp16.json`."""


def needed_files(names: Iterable[str], components: Collection[str]) -> list[str]:
    """Return the files of a repository to fetch, sorted: each component's settings and one set of weights.

    Args:
        names: paths inside the repository, with slashes.
        components: sub-folders needed; the empty name is the repository's root.
    """
    names = list(names)
    needed = {"model_index.json"} & set(names)

    for component in components:
        inside = files_in(names, component)
        weights = weight_files(inside, VARIANTS_TO_FETCH)
        settings = [
            name for name in inside if name.endswith(SETTINGS_SUFFIXES) and _variant(name) is None
        ]
        needed |= {f"{component}/{name}".removeprefix("/") for name in weights + settings}

    return sorted(needed)


def problems(names: Iterable[str], components: Collection[str]) -> list[str]:
    """Return what the components lack, as sentence fragments; empty when they are complete.

    Args:
        names: paths of the files present, with slashes.
        components: sub-folders that must be complete; the empty name is the root.
    """
    names, found = list(names), []
    for component in components:
        inside, label = files_in(names, component), component or "the folder"
        if not inside:
            found.append(f"{label}: absent")
        elif component in NETWORKS:
            found += [f"{label}: {problem}" for problem in _weight_problems(inside)]
    return found


def local_files(folder: Path) -> list[str]:
    """Return the files under a folder as relative paths with slashes, without broken links."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def local_components(folder: Path, expected: Collection[str]) -> tuple[str, ...]:
    """Return the expected components, except those that the folder's own model_index.json sets to null.

    A model_index.json that cannot be read excludes nothing.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError):
        return tuple(expected)
    return tuple(name for name in expected if index.get(name) != [None, None])


def local_problems(folder: Path, entry: ModelEntry) -> list[str]:
    """Return what a folder lacks of a model of the catalogue, as `problems` does."""
    names = local_files(folder)
    found = [] if entry.marker in names else [f"{entry.marker}: absent"]
    return found + problems(names, local_components(folder, entry.components))


def require_folder(folder: Path, entry: ModelEntry) -> Path:
    """Return the user's own folder, unless its weights cannot be read without a pickle.

    The files' contents are left to the loader and to `vlm3d-gs models check`.

    Raises:
        ModelError: it is a file, it holds no weights, or a component holds only pickles.
    """
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is a file; give the folder of a whole model, as save_pretrained writes it. Single checkpoint "
            f"files are not supported."
        )

    # Absent components are the loader's to report: it knows which of them this pipeline needs.
    names = local_files(folder)
    present = [
        name
        for name in local_components(folder, entry.components)
        if name in NETWORKS and files_in(names, name)
    ]
    found = problems(names, present)
    if not any(name.endswith(".safetensors") for name in names):
        found = found or ["it holds no .safetensors file"]

    if found:
        raise ModelError(
            f"The folder {folder} cannot be used: {'; '.join(found)}. Give a folder as save_pretrained writes it, "
            f"with .safetensors weights; pickles are never loaded."
        )
    return folder


def files_in(names: Iterable[str], component: str) -> list[str]:
    """Return the names of the files directly inside a component."""
    return [name.rpartition("/")[2] for name in names if name.rpartition("/")[0] == component]


def weight_files(inside: Iterable[str], variants: tuple[str, ...]) -> list[str]:
    """Return the best set of a component's weights: the safetensors in order, then their index.

    Args:
        inside: names of the files in the component.
        variants: acceptable variants, best first.
    """
    inside = sorted(inside)
    for variant in variants:
        same = [name for name in inside if _variant(name) == variant]
        if any(name.endswith(".safetensors") for name in same):
            return sorted(same, key=lambda name: (name.endswith(".json"), name))
    return []


def _variant(name: str) -> str | None:
    """Return the variant of a weight file or index, "" if it has none; None for other files."""
    match = WEIGHTS.fullmatch(name)
    return None if match is None else match[1] or match[3] or match[4] or ""


def _weight_problems(inside: list[str]) -> list[str]:
    found = [] if "config.json" in inside else ["config.json is absent"]

    weights = [
        name for name in weight_files(inside, VARIANTS_TO_LOAD) if name.endswith(".safetensors")
    ]
    if not weights:
        pickles = [name for name in inside if name.endswith(PICKLE_SUFFIXES)]
        only = f"only pickles ({', '.join(pickles)})" if pickles else "no .safetensors weights"
        return [*found, only]

    matches = [match for name in weights if (match := WEIGHTS.fullmatch(name))]
    n_shards = max(int(match["n_shards"] or 1) for match in matches)
    if len(weights) < n_shards:
        found.append(f"{len(weights)} of {n_shards} shards")
    return found

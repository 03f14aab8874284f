"""The catalogue as text, and which of its models are on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vlm3d_gs.core.errors import MissingDependencyError, ModelError
from vlm3d_gs.models import catalogue_entry, embedded_weights, locate
from vlm3d_gs.models.catalogue import CATALOGUE, ENTRIES, ModelEntry, entry_with_id
from vlm3d_gs.models.hub import cache_folder, cached_folder
from vlm3d_gs.models.integrity import check_folder


def local_folder(entry: ModelEntry) -> Path | None:
    """Return the folder of a model on this machine, or None; never touches the network."""
    if entry.embedded:
        try:
            return embedded_weights(entry.role)
        except MissingDependencyError:
            return None

    found = (cached_folder(model_id, entry) for model_id in (*entry.ids, *entry.former_ids))
    return next((folder for folder in found if isinstance(folder, Path)), None)


def listing() -> str:
    """Return the catalogue as lines of text: name, role, size, licence, ids, note and local folder."""
    lines = [f"{'name':<15}{'role':<8}{'size':>8}  licence"]
    for entry in ENTRIES:
        size = f"{entry.size_mb / 1000:.1f} GB" if entry.size_mb >= 1000 else f"{entry.size_mb} MB"
        licence = f"{entry.licence}{', login needed' if entry.gated else ''}"
        lines.append(f"{entry.name:<15}{entry.role:<8}{size:>8}  {licence}")

        lines += [f"  {model_id}" for model_id in entry.ids]
        lines += [f"  {model_id} (removed; used if cached)" for model_id in entry.former_ids]
        lines.append(f"  {entry.note}")
        lines.append(f"  -> {local_folder(entry) or 'not on this machine'}")
    lines.append(f"Cache: {cache_folder()}")
    return "\n".join(lines)


def pull(
    model: str,
    family: str | None = None,
    *,
    offline: bool = False,
    announce: Callable[[str], None] | None = None,
) -> Path:
    """Fetch a model into the hub's cache if it is not there, and return its folder.

    Args:
        model: catalogue name or hub id.
        family: catalogue name of a model with the same kind of files; required for ids not in the catalogue.
        offline: look in the cache only.
        announce: called with one line before a download starts; also turns the progress bars on.

    Raises:
        ModelError: it cannot be found, or nothing determines what files it has.
    """
    known = CATALOGUE.get(model) or entry_with_id(model)
    if known is None and family is None:
        raise ModelError(
            f"{model!r} is not in the catalogue. Name a listed model with the same kind of files, for example "
            f"--family sdxl; listed are {', '.join(CATALOGUE)}."
        )

    # A catalogue name must not match a folder of that name, as `locate` would let it.
    return locate(
        None if model in CATALOGUE else model,
        family or (known.name if known else model),
        offline=offline,
        announce=announce,
        progress=announce is not None,
    )


def check(target: str | None) -> Iterator[str]:
    """Check the weights of one model, or of every model on this machine; yield a line for each intact one.

    Args:
        target: catalogue name, or folder; None checks every model of the catalogue that is here.

    Raises:
        ModelError: after all were checked: one is not here, incomplete or damaged.
        MissingDependencyError: the embedded weights are not in this installation.
    """
    folders: list[tuple[str, Path, ModelEntry | None]]
    if target is None:
        folders = [
            (entry.name, folder, entry) for entry in ENTRIES if (folder := local_folder(entry))
        ]
    elif Path(target).expanduser().exists():
        folders = [(target, Path(target).expanduser(), None)]
    elif target in CATALOGUE:
        folders = [(target, locate(None, target, offline=True), catalogue_entry(target))]
    else:
        raise ModelError(
            f"{target!r} is neither a folder that exists nor one of {', '.join(CATALOGUE)}."
        )

    broken = []  # one damaged model must not hide the others
    for name, folder, entry in folders:
        try:
            yield _line(name, folder, entry)
        except ModelError as error:
            broken.append(f"{name}: {error}")

    if broken:
        raise ModelError(" ".join(broken))


def _line(name: str, folder: Path, entry: ModelEntry | None) -> str:
    found = check_folder(folder, entry)
    ignored = f", {len(found.ignored)} pickles ignored" if found.ignored else ""
    return (
        f"ok  {name}: {found.n_tensors} tensors in {found.n_files} files, {found.n_bytes / 1e6:.0f} MB"
        f"{ignored}, {folder}"
    )

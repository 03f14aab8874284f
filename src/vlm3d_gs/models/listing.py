"""The catalogue as text, with what of it is on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vlm3d_gs.core.errors import MissingDependencyError, ModelError
from vlm3d_gs.models import embedded_weights, entry, locate
from vlm3d_gs.models.catalogue import CATALOGUE, ENTRIES, ModelEntry, entry_with_id
from vlm3d_gs.models.hub import cached_folder, default_cache
from vlm3d_gs.models.integrity import check_folder


def where(known: ModelEntry, cache: Path | None = None) -> Path | None:
    """Return the folder of a model of the catalogue on this machine, None when it is not here; asks no hub."""
    if known.embedded:
        try:
            return embedded_weights(known.role)
        except MissingDependencyError:
            return None
    for model_id in (*known.ids, *known.former_ids):
        found = cached_folder(model_id, known, cache or default_cache())
        if isinstance(found, Path):
            return found
    return None


def listing(cache: Path | None = None) -> str:
    """Return the catalogue, one model after the other: name, role, size, licence, ids, note, and where it is."""
    lines = [f"{'name':<15}{'role':<8}{'size':>8}  licence"]
    for known in ENTRIES:
        size = f"{known.size_mb / 1000:.1f} GB" if known.size_mb >= 1000 else f"{known.size_mb} MB"
        licence = f"{known.licence}{', login needed' if known.gated else ''}"
        lines.append(f"{known.name:<15}{known.role:<8}{size:>8}  {licence}")
        lines += [f"  {model_id}" for model_id in known.ids]
        lines += [f"  {model_id} (removed; used if cached)" for model_id in known.former_ids]
        lines.append(f"  {known.note}")
        folder = where(known, cache)
        lines.append(f"  -> {folder}" if folder else "  -> not on this machine")
    lines.append(f"Cache: {cache or default_cache()}")
    return "\n".join(lines)


def pull(
    model: str,
    family: str | None = None,
    *,
    offline: bool = False,
    cache: Path | None = None,
    endpoint: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Fetch a model into the hub's cache if it is not there, and return its folder.

    Args:
        model: catalogue name or hub id.
        family: catalogue name of a model with the same kind of files; only needed for ids that the catalogue lacks.
        offline: look in the cache only.
        cache: the hub's cache; None is the user's own.
        endpoint: address of the hub; None is the user's own.
        say: told in one line what is fetched before it is; also turns the bars on.

    Raises:
        ModelError: it cannot be had, or nothing tells what files it has.
    """
    known = CATALOGUE.get(model) or entry_with_id(model)
    if known is None and family is None:
        raise ModelError(
            f"{model!r} is not in the catalogue. Say which listed model it is like, for example --family sdxl; "
            f"listed are {', '.join(CATALOGUE)}."
        )
    return locate(
        None if model in CATALOGUE else model,
        family or (known.name if known else model),
        offline=offline,
        cache=cache,
        endpoint=endpoint,
        say=say,
        progress=say is not None,
    )


def check(target: str | None, cache: Path | None = None) -> Iterator[str]:
    """Check the weights of one model, or of all that are on this machine; yield a line for each whole one.

    Args:
        target: catalogue name, or folder; None is everything of the catalogue that is here.
        cache: the hub's cache; None is the user's own.

    Raises:
        ModelError: after all were checked: one is not here, not complete or damaged.
        MissingDependencyError: the embedded weights are not in this installation.
    """
    if target is None:
        here: list[tuple[str, Path, ModelEntry | None]] = [
            (known.name, folder, known) for known in ENTRIES if (folder := where(known, cache))
        ]
    elif Path(target).expanduser().exists():
        here = [(target, Path(target).expanduser(), None)]
    elif target in CATALOGUE:
        here = [(target, locate(None, target, offline=True, cache=cache), entry(target))]
    else:
        raise ModelError(
            f"{target!r} is neither a folder that exists nor one of {', '.join(CATALOGUE)}."
        )
    broken = []
    for name, folder, known in here:
        try:
            yield _line(name, folder, known)
        except ModelError as error:
            broken.append(f"{name}: {error}")
    if broken:
        raise ModelError(" ".join(broken))


def _line(name: str, folder: Path, known: ModelEntry | None) -> str:
    found = check_folder(folder, known)
    ignored = f", {len(found.ignored)} pickles ignored" if found.ignored else ""
    return (
        f"ok  {name}: {found.n_tensors} tensors in {found.n_files} files, {found.n_bytes / 1e6:.0f} MB"
        f"{ignored}, {folder}"
    )

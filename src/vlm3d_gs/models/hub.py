"""Weights from a model hub: the cache first, then the network, and an error that says what to do.

Owns huggingface_hub, whose `snapshot_download` checks etags, resumes partial files and keeps the cache. What it does
not do stands here: repositories vanish, are renamed or move behind a login, so a model has several ids, and when all
of them fail the message gives the reason of each. Nothing is fetched from a repository without usable weights, or onto
a disk that cannot hold it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined] # HTTPError is its client's
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from vlm3d_gs.core.errors import ModelError
from vlm3d_gs.models.catalogue import CATALOGUE, ModelEntry, entry_with_id
from vlm3d_gs.models.layout import local_problems, needed_files, problems

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
TIMEOUT_S = 20.0
"""Seconds after which a silent hub counts as unreachable."""
Kind = Literal["absent", "removed", "gated", "unreachable", "unusable"]

STATUSES: dict[int, tuple[Kind, str]] = {
    **dict.fromkeys((401, 404, 410), ("removed", "removed, renamed or private")),
    403: ("gated", "access refused"),
}
"""What an HTTP status says about a repository; any other status is the hub's own trouble."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an id gave no weights."""

    kind: Kind
    """`absent` from the cache, `removed` or `gated` on the hub, hub `unreachable`, contents `unusable`."""
    reason: str
    """The same in words, without the id."""


def cache_folder() -> Path:
    """Return the folder in which huggingface_hub keeps what it has fetched."""
    return Path(constants.HF_HUB_CACHE)


def find(
    model: str | None,
    entry: ModelEntry,
    *,
    offline: bool,
    announce: Callable[[str], None] | None,
    progress: bool,
) -> Path:
    """Return the folder of a model in the hub's cache, fetched if necessary; arguments and errors as for `locate`."""
    if model is not None and not HUB_ID.fullmatch(model):
        raise ModelError(
            f"{model!r} is neither a folder that exists, nor a hub id of the form owner/name, nor one of "
            f"{', '.join(CATALOGUE)}."
        )
    ids = entry.ids if model is None else (model,)
    former_ids = entry.former_ids if model is None else ()
    failures: dict[str, Failure] = {}

    for model_id in (*ids, *former_ids):
        cached = cached_folder(model_id, entry)
        if isinstance(cached, Path):
            return cached
        removed = "removed from the hub; " if model_id in former_ids else ""
        failures[model_id] = Failure("absent", f"{removed}{cached}")

    for model_id in () if offline else ids:
        fetched = fetch(model_id, entry, announce=announce, progress=progress)
        if isinstance(fetched, Path):
            return fetched
        failures[model_id] = fetched
        if fetched.kind == "unreachable":
            break  # the other ids are on the same hub

    raise ModelError(_report(model, entry, failures, offline))


def cached_folder(model_id: str, entry: ModelEntry) -> Path | str:
    """Return the folder of a model in the cache, or why it cannot be used; never touches the network."""
    try:
        folder = Path(
            snapshot_download(model_id, local_files_only=True, allow_patterns=[entry.marker])
        )
    except (LocalEntryNotFoundError, ValueError):
        return "not in the cache"
    found = local_problems(folder, entry)
    return f"incomplete in the cache ({'; '.join(found)})" if found else folder


def fetch(
    model_id: str,
    entry: ModelEntry,
    *,
    announce: Callable[[str], None] | None,
    progress: bool,
) -> Path | Failure:
    """Fetch the needed files of one id into the cache; return their folder, or why there is none.

    Raises:
        ModelError: the disk is too full.
    """
    try:
        # One request for all names and sizes; snapshot_download's dry run would make one per file.
        info = HfApi().model_info(model_id, files_metadata=True, timeout=TIMEOUT_S)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        found = _remote_problems(sizes, entry)
        if found:
            return Failure("unusable", "; ".join(found))

        names = needed_files(sizes, entry.components)
        n_bytes = sum(
            sizes[name]
            for name in names
            if not isinstance(try_to_load_from_cache(model_id, name, revision=info.sha), str)
        )
        require_disk_space(n_bytes, model_id)
        if announce is not None:
            announce(f"fetching {model_id}: {len(names)} files, {n_bytes / 1e6:.0f} MB")

        bars = tqdm if progress else _NoBars
        folder = Path(snapshot_download(model_id, allow_patterns=names, tqdm_class=bars))
    except (HfHubHTTPError, HTTPError, OSError, ValueError, RuntimeError) as error:
        return _failure(error)

    # Only now, with its model_index.json here, is it known which components the pipeline has.
    found = local_problems(folder, entry)
    return Failure("unusable", "; ".join(found)) if found else folder


def require_disk_space(n_bytes: int, model_id: str) -> None:
    """Refuse a download that the cache's disk cannot hold.

    Raises:
        ModelError: fewer than `n_bytes` are free.
    """
    cache = cache_folder()
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise ModelError(
            f"{model_id} needs {n_bytes / 1e9:.1f} GB more, and the disk of {cache} has {free / 1e9:.1f} GB free. Make "
            f"room, or set the environment variable HF_HOME to a folder on a larger disk."
        )


class _NoBars(tqdm):
    """Progress bars that are never shown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def _remote_problems(names: Collection[str], entry: ModelEntry) -> list[str]:
    """Return why a repository cannot be used, judged by the names of its files.

    A component that is wholly absent may be one that the pipeline does without, as its model_index.json will show.
    """
    if entry.marker not in names:
        return [f"holds no {entry.marker}, so it is not in the layout of save_pretrained"]
    present = [
        component
        for component in entry.components
        if not component or any(name.startswith(f"{component}/") for name in names)
    ]
    return problems(names, present)


def _failure(error: Exception) -> Failure:
    """Return what an error of the hub's library means."""
    # snapshot_download wraps the cause when it finds nothing in the cache to fall back on.
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
    if isinstance(cause, Exception):
        error = cause

    if isinstance(error, OfflineModeIsEnabled):
        return Failure("unreachable", "HF_HUB_OFFLINE forbids contacting the hub")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        kind, reason = STATUSES.get(status, ("unreachable", "the hub is out of order"))
        if isinstance(error, GatedRepoError):
            kind, reason = "gated", "gated"
        elif isinstance(error, RevisionNotFoundError | EntryNotFoundError):
            kind, reason = "removed", "the repository exists, but not the file"
        elif status == 401 and "Invalid credentials" in str(error):
            reason = "the hub rejects the stored token (hf auth logout)"
        return Failure(kind, f"HTTP {status}: {reason}")
    if isinstance(error, ValueError):
        return Failure("unusable", f"not a valid id: {_first_line(error)}")
    return Failure("unreachable", f"no answer from the hub: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def _report(
    model: str | None, entry: ModelEntry, failures: dict[str, Failure], offline: bool
) -> str:
    """Return the message for a model that no id had: each id with its reason, then what to do."""
    kinds = {failure.kind for failure in failures.values()}
    reasons = ", ".join(f"{name} ({failure.reason})" for name, failure in failures.items())
    no_folder = "; no folder has that name" if model else ""
    sentences = [f"No weights of {model or entry.name}{no_folder}. Tried: {reasons}."]

    if "removed" in kinds:
        sentences.append(
            "A hub answers 401 for a repository that was removed; a token does not help then."
        )
    sentences += [
        f"For {name}, accept the licence on its page https://huggingface.co/{name} and log in: hf auth login."
        for name, failure in failures.items()
        if failure.kind == "gated"
    ]
    if offline or "unreachable" in kinds:
        sentences.append(
            f"{'Offline' if offline else 'Without the hub'}, only the cache can be used; fill it on a machine with "
            f"network access: vlm3d-gs models pull {model or entry.name}."
        )

    known = entry_with_id(model) if model else None
    copies = [other for other in known.ids if other != model] if known else []
    if copies:
        sentences.append(f"The same model is also at: {', '.join(copies)}.")

    similar = [e.name for e in CATALOGUE.values() if e.role == entry.role and e is not entry]
    sentences.append(
        f"Or give a folder (as save_pretrained writes it) or another id with --set {entry.role}.model=FOLDER, or "
        f"choose another family: {', '.join(similar)}."
    )
    return " ".join(sentences)

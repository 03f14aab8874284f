"""Weights from a model hub: the cache first, then the network, and an error that says what to do.

Owns huggingface_hub. Repositories vanish, are renamed and put behind a login, so a model has several ids, and when all
fail the message holds the reason of each.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from vlm3d_gs.core.errors import ModelError
from vlm3d_gs.models.catalogue import CATALOGUE, ModelEntry, entry_with_id
from vlm3d_gs.models.layout import local_problems, needed_files, problems

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
ANSWER_S = 20.0
"""Seconds after which a hub that says nothing counts as unreachable."""
Kind = Literal["absent", "removed", "gated", "unreachable", "unusable"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an id gave no weights."""

    kind: Kind
    """`absent` from the cache, `removed` or `gated` on the hub, hub `unreachable`, contents `unusable`."""
    reason: str
    """The same for people, without the id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Which hub, and where its files go."""

    cache: Path
    """Folder of the cache."""
    endpoint: str | None = None
    """Address; None is the user's own."""
    say: Callable[[str], None] | None = None
    """Told what is fetched."""
    progress: bool = True
    """Show bars while fetching."""


def default_cache() -> Path:
    """Return the folder in which the hub's library keeps what it has fetched."""
    return Path(constants.HF_HUB_CACHE)


def find(
    model: str | None,
    wanted: ModelEntry,
    *,
    offline: bool = False,
    cache: Path | None = None,
    endpoint: str | None = None,
    say: Callable[[str], None] | None = None,
    progress: bool = True,
) -> Path:
    """Return the folder of a model's files in the hub's cache, fetched if need be.

    Args:
        model: hub id; None takes those of the catalogue, in order.
        wanted: what files such a model has.
        offline: look in the cache only.
        cache: the cache; None is the user's own.
        endpoint: address of the hub; None is the user's own.
        say: told in one line what is fetched before it is.
        progress: show bars while fetching.

    Raises:
        ModelError: no id has the model, or the disk is too full.
    """
    if model is not None and not HUB_ID.fullmatch(model):
        raise ModelError(
            f"{model!r} is neither a folder that exists, nor a hub id of the form owner/name, nor one of "
            f"{', '.join(CATALOGUE)}."
        )
    hub = Hub(cache=cache or default_cache(), endpoint=endpoint, say=say, progress=progress)
    ids = wanted.ids if model is None else (model,)
    former = wanted.former_ids if model is None else ()
    failures: dict[str, Failure] = {}
    for model_id in (*ids, *former):
        found = cached_folder(model_id, wanted, hub.cache)
        if isinstance(found, Path):
            return found
        failures[model_id] = found
    for model_id in former:
        failures[model_id] = Failure("absent", f"removed from the hub; {failures[model_id].reason}")
    if not offline:
        for model_id in ids:
            fetched = fetch(model_id, wanted, hub)
            if isinstance(fetched, Path):
                return fetched
            failures[model_id] = fetched
            if fetched.kind == "unreachable":
                break
    raise ModelError(_report(model, wanted, failures, offline))


def cached_folder(model_id: str, wanted: ModelEntry, cache: Path) -> Path | Failure:
    """Return the folder of a model in the cache, or what is wrong with it; never touches the network."""
    try:
        folder = Path(
            snapshot_download(
                model_id, cache_dir=cache, local_files_only=True, allow_patterns=[wanted.marker]
            )
        )
    except (LocalEntryNotFoundError, ValueError):
        return Failure("absent", "not in the cache")
    lacks = local_problems(folder, wanted)
    if lacks:
        return Failure("absent", f"incomplete in the cache ({'; '.join(lacks)})")
    return folder


def fetch(model_id: str, wanted: ModelEntry, hub: Hub) -> Path | Failure:
    """Fetch the needed files of one id into the cache; return their folder, or why there is none.

    Names and sizes are asked for first, so that nothing is fetched from a repository without usable weights, and
    nothing that the disk cannot hold.

    Raises:
        ModelError: the disk is too full.
    """
    try:
        info = HfApi(endpoint=hub.endpoint).model_info(
            model_id, files_metadata=True, timeout=ANSWER_S
        )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        lacks = _remote_problems(sizes, wanted)
        if lacks:
            return Failure("unusable", "; ".join(lacks))
        names = needed_files(sizes, wanted.parts)
        n_bytes = sum(
            sizes[name]
            for name in names
            if not isinstance(
                try_to_load_from_cache(model_id, name, hub.cache, revision=info.sha), str
            )
        )
        require_room(hub.cache, n_bytes, model_id)
        if hub.say is not None:
            hub.say(f"fetching {model_id}: {len(names)} files, {n_bytes / 1e6:.0f} MB")
        with _bars(hub.progress):
            folder = Path(
                snapshot_download(
                    model_id, cache_dir=hub.cache, endpoint=hub.endpoint, allow_patterns=names
                )
            )
    except (HfHubHTTPError, HTTPError, OSError, ValueError, RuntimeError) as error:
        return _failure(error, model_id)
    lacks = local_problems(folder, wanted)
    return Failure("unusable", "; ".join(lacks)) if lacks else folder


def require_room(cache: Path, n_bytes: int, what: str) -> None:
    """Refuse a download that the cache's disk cannot hold.

    Raises:
        ModelError: fewer than `n_bytes` are free.
    """
    place = cache
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if n_bytes > free:
        raise ModelError(
            f"{what} needs {n_bytes / 1e9:.1f} GB more, and the disk of {cache} has {free / 1e9:.1f} GB free. Make "
            f"room, or set the environment variable HF_HOME to a folder on a larger disk."
        )


def _remote_problems(names: Collection[str], wanted: ModelEntry) -> list[str]:
    """Return why a repository cannot be used, by the names of its files.

    A part that is wholly absent may be one that the pipeline leaves out; its model_index.json tells after the download.
    """
    if wanted.marker not in names:
        return [f"holds no {wanted.marker}, so it is not in the layout of save_pretrained"]
    held = [
        part for part in wanted.parts if not part or any(n.startswith(f"{part}/") for n in names)
    ]
    return problems(names, held)


def _failure(error: Exception, model_id: str) -> Failure:
    """Say what an error of the hub's library means."""
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
    seen = cause if isinstance(cause, Exception) else error
    status = seen.response.status_code if isinstance(seen, HfHubHTTPError) else 0
    if isinstance(seen, GatedRepoError):
        return Failure("gated", f"HTTP {status}: gated")
    if isinstance(seen, RevisionNotFoundError | EntryNotFoundError):
        return Failure(
            "removed", f"HTTP {status}: the repository is there, but not what is asked of it"
        )
    if status == 401 and "Invalid credentials" in str(seen):
        return Failure("removed", "HTTP 401: the hub refuses the stored token (hf auth logout)")
    if status in (401, 404, 410):
        return Failure("removed", f"HTTP {status}: removed, renamed or private")
    if status == 403:
        return Failure("gated", "HTTP 403: access refused")
    if status:
        return Failure("unreachable", f"HTTP {status}: the hub is out of order")
    if isinstance(seen, OfflineModeIsEnabled):
        return Failure("unreachable", "HF_HUB_OFFLINE forbids asking the hub")
    if isinstance(seen, ValueError):
        return Failure("unusable", f"not a valid id: {_first_line(seen)}")
    return Failure("unreachable", f"no answer from the hub: {_first_line(seen)}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{f': {lines[0]}' if lines else ''}"


def _report(
    model: str | None, wanted: ModelEntry, failures: dict[str, Failure], offline: bool
) -> str:
    """Return the message for a model that no id had: each id with its reason, then what to do."""
    tried = ", ".join(f"{name} ({failure.reason})" for name, failure in failures.items())
    no_folder = "; no folder has that name" if model else ""
    parts = [f"No weights of {model or wanted.name}{no_folder}. Tried: {tried}."]
    kinds = {failure.kind for failure in failures.values()}
    if "removed" in kinds:
        parts.append(
            "A hub answers 401 for a repository that was removed; a token does not help then."
        )
    for name in [name for name, failure in failures.items() if failure.kind == "gated"]:
        parts.append(
            f"For {name}, accept the licence on its page https://huggingface.co/{name} and log in: hf auth login."
        )
    if offline or "unreachable" in kinds:
        parts.append(
            f"{'Offline, only' if offline else 'Without the hub, only'} the cache was of use: beforehand, with "
            f"network, run: vlm3d-gs models pull {model or wanted.name}."
        )
    known = entry_with_id(model) if model else None
    others = [other for other in known.ids if other != model] if known else []
    if others:
        parts.append(f"The same model is also at: {', '.join(others)}.")
    similar = [e.name for e in CATALOGUE.values() if e.role == wanted.role and e is not wanted]
    parts.append(
        f"Or give a folder or another id with --set {wanted.role}.model=FOLDER (as save_pretrained writes it), or take "
        f"another family: {', '.join(similar)}."
    )
    return " ".join(parts)


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Hide the hub library's progress bars inside the block, unless they are to be shown."""
    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()

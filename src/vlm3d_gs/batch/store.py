"""The folder of a batch behind a URL (`s3://`, `gs://`, and what else fsspec knows), for machines that share none.

Owns fsspec. Names below are relative to the batch's folder, with slashes. An object of a store is replaced as a whole,
so a reader sees the old one or the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import fsspec

from vlm3d_gs.batch.items import ASSETS, Item
from vlm3d_gs.batch.outcome import SIDECAR, Outcome, parse_sidecar
from vlm3d_gs.core.errors import ConfigError, MissingDependencyError, WriteError
from vlm3d_gs.core.files import TEMPORARY

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Protocol -> extra of this package that has its library."""
KEPT_HERE = ".lock"
"""A file that means something on its own machine only."""


class Store:
    """Files under a URL.

    Args:
        url: of the batch's folder.

    Raises:
        ConfigError: fsspec does not know such a URL.
        MissingDependencyError: the library of its protocol is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        protocol = url.partition("://")[0]
        try:
            # What others write meanwhile must be seen, so no listing is kept.
            self._files, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            extra = EXTRAS.get(protocol)
            cure = f"pip install 'vlm3d-gs[{extra}]'" if extra else f"{error}"
            raise MissingDependencyError(f"--out {url} needs a library: {cure}.") from error
        except ValueError as error:
            raise ConfigError(
                f"--out must be a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, got {url[:100]!r}: {error}."
            ) from error
        self._root = str(root).rstrip("/")

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None if there is none.

        Raises:
            WriteError: the store cannot be reached.
        """
        with self._reaching(name):
            try:
                return bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def names(self, under: str = "") -> set[str]:
        """Return the names of all files in a folder, at any depth.

        Raises:
            WriteError: the store cannot be reached.
        """
        with self._reaching(under):
            try:
                found = self._files.find(self._path(under))
            except FileNotFoundError:
                return set()
        return {str(path).removeprefix(self._root).lstrip("/") for path in found}

    def send(self, path: Path, name: str) -> None:
        """Write a file of this machine into the store.

        Raises:
            WriteError: the store refuses, or cannot be reached.
        """
        with self._reaching(name):
            self._files.pipe_file(self._path(name), path.read_bytes())

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises:
            WriteError: the store refuses, or cannot be reached.
        """
        with self._reaching(name):
            self._files.rm_file(self._path(name))

    def fetch(self, folder: PurePosixPath, here: Path) -> None:
        """Copy a folder of the store to this machine; nothing is made if it is empty.

        Raises:
            WriteError: the store cannot be reached, or this machine's disk is full.
        """
        for name in sorted(self.names(str(folder))):
            target = here / PurePosixPath(name).relative_to(folder)
            data = self.read(name)
            with self._reaching(name):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data or b"")

    @contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        """Turn whatever a store's library raises into one error; each has classes of its own."""
        try:
            yield
        except WriteError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise WriteError(
                f"Cannot reach {self.url}/{name}: {text.rstrip('.')}. Look at its address, your rights to it, and the "
                "disk of this machine."
            ) from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")


class StoredAssets:
    """Which assets a store holds, as it was when this was made.

    Args:
        store: the batch's.
        under: folder to look into.
    """

    def __init__(self, store: Store, under: str = ASSETS) -> None:
        self._store = store
        self._names = store.names(under)

    def __call__(self, item: Item, row: Outcome | None) -> Outcome | None:
        """Return the outcome of a whole asset; None if there is none.

        Args:
            item: what is asked for.
            row: what the manifest says; if that is what the store holds, nothing is read.
        """
        sidecar = f"{item.folder}/{SIDECAR}"
        if sidecar not in self._names:
            return None
        if row is None or row.status != "done":
            data = self._store.read(sidecar)
            row = None if data is None else parse_sidecar(data, item.content)
        whole = row is not None and all(
            f"{item.folder}/{name}" in self._names for name in row.files
        )
        return row if whole else None


def local_names(folder: Path) -> dict[str, int]:
    """Return the finished files of a run's folder with the times of their last change, in nanoseconds."""
    found: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        own = path.name == KEPT_HERE or path.name.startswith(TEMPORARY)
        if path.is_file() and not own:
            found[path.relative_to(folder).as_posix()] = path.stat().st_mtime_ns
    return found

"""The wheels that were built, and whether one of them is what this environment has."""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

GSPLAT = "1.5.3"
"""The version that is built: gsplat's newest on the index when this was written."""


@dataclass(frozen=True, slots=True)
class WheelStore:
    """The place of one wheel: for one gsplat, torch (and its CUDA), Python and set of architectures."""

    cache: Path
    torch_version: str
    architectures: Sequence[str]

    @property
    def folder(self) -> Path:
        """Where the wheel and what is known of it lie."""
        python = f"cp{sys.version_info.major}{sys.version_info.minor}-{sysconfig.get_platform()}"
        cards = "sm_" + "_".join(name.replace(".", "") for name in self.architectures)
        return self.cache / f"gsplat-{GSPLAT}" / f"torch-{self.torch_version}" / python / cards

    def wheel(self) -> Path | None:
        """Return the wheel; None if it has not been built."""
        return next(iter(sorted(self.folder.glob("gsplat-*.whl"))), None)

    def is_installed(self) -> bool:
        """Return whether this environment's gsplat has the very library of the wheel."""
        wheel, library = self.wheel(), installed_library()
        return (
            wheel is not None
            and library is not None
            and digest(library) == self._notes().get("library")
        )

    def proved_on(self) -> list[str]:
        """Return where the wheel was tried: the names of cards, and "load" for an import without one."""
        return list(self._notes().get("proved_on", []))

    def note(self, wheel: Path, proved_on: str) -> None:
        """Remember that the wheel was tried there."""
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if _is_library(Path(name)))
            library = hashlib.sha256(archive.read(name)).hexdigest()
        places = sorted({*self.proved_on(), proved_on})
        self._notes_file.write_text(json.dumps({"library": library, "proved_on": places}, indent=1))

    @property
    def _notes_file(self) -> Path:
        return self.folder / "notes.json"

    def _notes(self) -> dict[str, Any]:
        if not self._notes_file.is_file():
            return {}
        notes: dict[str, Any] = json.loads(self._notes_file.read_text())
        return notes


def installed_library() -> Path | None:
    """Return the compiled part of this environment's gsplat; None if it has none."""
    spec = find_spec("gsplat")
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        for file in folder.iterdir():
            if _is_library(file):
                return file
    return None


def was_built_here(library: Path, cache: Path) -> bool:
    """Return whether a compiled part comes from a wheel of this cache, for whichever torch and cards."""
    known = (json.loads(notes.read_text()) for notes in cache.glob("gsplat-*/**/notes.json"))
    return digest(library) in {notes.get("library") for notes in known}


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _is_library(file: Path) -> bool:
    return file.name.startswith("csrc") and file.suffix in (".so", ".pyd")

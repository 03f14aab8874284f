"""pip or uv, whichever this environment was made with."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Installer:
    """The commands of one of them, for the Python that runs."""

    uv: str | None
    """uv's program; None for pip."""

    @property
    def name(self) -> str:
        """For messages."""
        return "uv" if self.uv else "pip"

    def fetch(self, target: Path, *requirements: str) -> list[str]:
        """Return the command that unpacks packages into a folder, outside of any environment."""
        return [*self._install(), "--target", str(target), *requirements]

    def install(self, *packages: str) -> list[str]:
        """Return the command that installs packages into this environment, with what they need."""
        return [*self._install(), *packages]

    def replace(self, wheel: Path) -> list[str]:
        """Return the command that installs a wheel, and nothing else, in place of any other of its name."""
        again = (
            ["--reinstall-package", wheel.name.split("-")[0]] if self.uv else ["--force-reinstall"]
        )
        return [*self._install(), "--no-deps", *again, str(wheel)]

    def _install(self) -> list[str]:
        if self.uv:
            return [self.uv, "pip", "install", "--quiet", "--python", sys.executable]
        return [*pip(), "install", "--quiet", "--no-input"]


def pip() -> list[str]:
    """Return how pip is called."""
    return [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def find_installer() -> Installer | None:
    """Return pip where this environment has it, else uv, else None."""
    if find_spec("pip") is not None:
        return Installer(None)
    uv = shutil.which("uv")
    return Installer(uv) if uv else None

"""What the studio does, without its page: one run at a time in a thread, a gallery of a folder, files to take away."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vlm3d_gs.app.generate import generate
from vlm3d_gs.app.refine import Refined, refine_splat
from vlm3d_gs.app.result import Result
from vlm3d_gs.assembly.start import is_scene
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError, Vlm3dGsError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.formats.registry import WRITTEN
from vlm3d_gs.optimize.trainer import Observer
from vlm3d_gs.runs.answers import Answer, from_summary
from vlm3d_gs.runs.folder import CONFIG, free_folder
from vlm3d_gs.runs.record import SPLAT, read_record
from vlm3d_gs.show.page import write_page

NO_CRITIC, PRESETS_OWN = "none", "as the preset"
"""Choices of a critic beside the families."""


@dataclass(frozen=True)
class Shown:
    """What the page shows: a run of the gallery, one that was just made, or a file from elsewhere."""

    title: str
    """Prompt, or name of the file."""
    scene: Gaussians
    """On the CPU."""
    folder: Path | None = None
    """Of the run; None for a file."""
    answers: tuple[Answer, ...] = ()
    """Of the critic."""


@dataclass(frozen=True, slots=True)
class Export:
    """A file to take away."""

    suffix: str
    """With its dot."""
    words: str
    """Where it opens, for the menu."""


EXPORTS = {
    f"{export.suffix}: {export.words}": export
    for export in (
        *(Export(row.suffixes[0], f"splat, {row.name}") for row in WRITTEN),
        Export(".html", "a page for any browser, offline"),
        Export("-mesh.glb", "a mesh for Blender and most 3D programs"),
        Export("-mesh.obj", "a mesh, texture beside it left out"),
        Export("-mesh.stl", "a mesh to print"),
        Export("-turntable.mp4", "a film of one turn"),
    )
}
"""Text of the menu -> what it makes."""


class Workshop:
    """Makes runs in a folder, one at a time.

    Args:
        folder: of the gallery; new runs go there.
        observe: sees each step of a run, and may stop it.
        tell: called with a short text whenever the state changes, from any thread.
    """

    def __init__(
        self,
        folder: Path,
        observe: Observer | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.folder, self._observe = folder, observe
        self._tell = tell or (lambda text: None)
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a run is being made."""
        return self._thread is not None and self._thread.is_alive()

    def configure(
        self,
        prompt: str,
        name: str,
        seed: int,
        critic: str = PRESETS_OWN,
        steps: int | None = None,
    ) -> Config:
        """Return the config of a new run, in a folder of its own.

        Args:
            prompt: what to make.
            name: of the preset.
            seed: of the run.
            critic: a family, `NO_CRITIC` or `PRESETS_OWN`.
            steps: of the run; None for the preset's.

        Raises:
            ConfigError: an empty prompt, or a seed out of range.
        """
        values: dict[str, object] = {"train.seed": seed, "train.steps": steps}
        if critic == NO_CRITIC:
            values["critic.enabled"] = False
        elif critic != PRESETS_OWN:
            values |= {"critic.enabled": True, "critic.family": critic}
        config = apply_settings(preset(name, prompt.strip()), values)
        return apply_settings(config, {"out": free_folder(self.folder / config.out.name)})

    def make(self, config: Config) -> Shown:
        """Make a run, and return it when it is done.

        Args:
            config: as from `configure`.

        Raises:
            Vlm3dGsError: as `vlm3d_gs.generate`.
        """
        # Objects that are made one by one have no one run to watch.
        observe = None if is_scene(config) else self._observe
        return self.shown(generate(config, quiet=True, observe=observe))

    def refine(
        self, shown: Shown, config: Config, *, keep: float = 0.0, steps: int | None = None
    ) -> tuple[Shown, Refined]:
        """Make a splat better towards a prompt; it stays as it is unless a judge prefers the new one.

        Args:
            shown: what to start from; its file and folder stay as they are.
            config: as from `configure`.
            keep: 0 to 1, how much of its looks is held.
            steps: None for half of the config's.

        Returns:
            The better splat, or the same one; and what the judge said.

        Raises:
            Vlm3dGsError: as `refine_splat`.
        """
        with tempfile.TemporaryDirectory(prefix="vlm3d-gs-") as room:
            before, after = Path(room) / "before.ply", Path(room) / "after.ply"
            write_splat(shown.scene, before)
            refined = refine_splat(
                before,
                config,
                after,
                keep=keep,
                steps=steps,
                quiet=True,
                observe=self._observe,
            )
            if not refined.accepted:
                return shown, refined
            return Shown(f"{Path(shown.title).stem}, refined", read_splat(after)), refined

    def start(self, work: Callable[[], Shown], done: Callable[[Shown | None], None]) -> None:
        """Do something long in a thread.

        Args:
            work: `make` or `refine`, with what they need.
            done: called in that thread with what was made, or None where an error was told.

        Raises:
            ConfigError: something is being made.
        """
        if self.busy:
            raise ConfigError("A run is being made. Wait for it, or stop it.")

        def watched() -> None:
            made: Shown | None = None
            try:
                made = work()
            except Vlm3dGsError as error:
                self._tell(f"Not made: {error}")
            except Exception as error:
                self._tell(f"Not made, and this is a bug: {type(error).__name__}: {error}")
                done(None)
                raise
            done(made)

        self._thread = threading.Thread(target=watched, name="studio run", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the run in progress, if there is one."""
        if self._thread is not None:
            self._thread.join(seconds)

    @staticmethod
    def shown(result: Result) -> Shown:
        """Return a finished run as the page shows it."""
        return Shown(result.config.prompt, result.scene, result.folder, result.answers)

    def gallery(self) -> list[str]:
        """Return the finished runs at the folder by name, the newest first."""
        if not self.folder.is_dir():
            return []
        found = [
            path
            for path in self.folder.iterdir()
            if (path / SPLAT).is_file() and (path / CONFIG).is_file()
        ]
        return [path.name for path in sorted(found, key=lambda path: -path.stat().st_mtime)]

    def open_run(self, name: str) -> Shown:
        """Return a run of the gallery.

        Raises:
            InputFileError: it is not there any more, or damaged.
            ConfigError: a name that is not in the gallery.
        """
        if name not in self.gallery():
            raise ConfigError(f"There is no finished run {name!r} in {self.folder}.")
        folder = self.folder / name
        record = read_record(folder)
        answers = from_summary(record.summary)
        return Shown(record.prompt or name, read_splat(folder / SPLAT), folder, answers)

    @staticmethod
    def open_upload(name: str, content: bytes) -> Shown:
        """Return a splat file that a visitor dropped; its bytes say what it is.

        Raises:
            InputFileError: it is no splat that can be read.
        """
        with tempfile.TemporaryDirectory(prefix="vlm3d-gs-") as room:
            # The visitor's name decides nothing but the suffix.
            path = Path(room) / f"upload{''.join(Path(name).suffixes[-2:])}"
            path.write_bytes(content)
            return Shown(Path(name).name, read_splat(path))

    @staticmethod
    def export(shown: Shown, choice: str) -> tuple[str, bytes]:
        """Return name and bytes of a file to take away.

        Args:
            shown: what to export.
            choice: a key of `EXPORTS`.

        Raises:
            ExportError: for a mesh, the scene has no surface; for a splat, the format cannot hold it.
        """
        suffix = EXPORTS[choice].suffix
        name = f"{shown.folder.name if shown.folder else Path(shown.title).stem}{suffix}"
        with tempfile.TemporaryDirectory(prefix="vlm3d-gs-") as room:
            path = Path(room) / f"scene{suffix}"
            if suffix == ".html":
                record = read_record(shown.folder) if shown.folder else None
                write_page(shown.scene, path, name=shown.title, record=record)
            elif suffix.startswith("-mesh"):
                from vlm3d_gs.mesh import extract_mesh, write_mesh

                write_mesh(extract_mesh(shown.scene), path)
            elif suffix == "-turntable.mp4":
                from vlm3d_gs.show.turntable import render_turntable

                render_turntable(shown.scene, path)
            else:
                write_splat(shown.scene, path)
            return name, path.read_bytes()

"""A run's folder: who may write into it, and how a new run takes the place of an old one.

One run at a time: a lock of the operating system, which ends with the process that holds it. A run that overwrites
another is written beside it, and takes its place once it can be resumed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.files import TEMPORARY, make_folder, remove_unfinished, writing

CONFIG = "config.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
"""The checkpoint before the last."""
PREVIEWS = "previews"
CANDIDATES = "candidates"
"""Folder of the unfinished seeds of a choice among several."""
LAYOUT_FILE, LAYOUT_PICTURE = "layout.json", "layout.png"
"""A layout, to edit and to look at."""
SCENE_FILE, OBJECTS = "scene.json", "objects"
"""Of a scene of many objects: what stands where, and the folder of each object in place."""
OWN_FILES = (
    *(product.file for product in PRODUCTS.values()),
    SCENE_FILE,
    LAYOUT_PICTURE,
    LAYOUT_FILE,
    METRICS,
    SUMMARY,
    CHECKPOINT,
    PREVIOUS,
    CONFIG,
)
"""What a run writes into its folder, besides previews/*.png and the folders `candidates` and `objects`;
--overwrite removes these and nothing else, config.json last, since that file says that the folder is a run's."""

LOCK = ".lock"
NEW, OLD, MOVING = ".new", ".old", ".moving"
"""A new run that cannot be resumed yet, what was there before, and a new run on its way to its place."""


@dataclass
class RunFolder:
    """Where a run writes."""

    out: Path
    """The folder that the user chose."""
    path: Path
    """Where the run is now: `out`, or inside it as long as an earlier run has the place."""

    @property
    def checkpoint(self) -> Path:
        """File from which the run can be resumed."""
        return self.path / CHECKPOINT

    @property
    def previews(self) -> Path:
        """Folder of the sheets that are written on the way."""
        return self.path / PREVIEWS

    def stand(self) -> None:
        """Take the place of the run that is overwritten: called once this one can be resumed. Else do nothing.

        Raises:
            WriteError: the file system refuses; the next run in the folder goes on with it.
        """
        if self.path != self.out:
            with writing(self.out):
                (self.out / OLD).mkdir(exist_ok=True)
                _settle(self.out)
            self.path = self.out


class FollowedFolder(RunFolder):
    """The folder of a run that another process writes; read only."""

    @property
    def checkpoint(self) -> Path:
        """File that the other process writes: in the run's first place as long as that is there."""
        return (self.path if self.path.is_dir() else self.out) / CHECKPOINT


def check_run_folder(out: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Refuse a folder that a run must not write into, without changing it.

    Args:
        out: the folder; its parents are created too.
        overwrite: an earlier run there will be removed (only files that it wrote).
        resume: an earlier run there will be continued.

    Raises:
        ConfigError: the folder is not empty and neither flag is set, both are set, or a run did not write the folder
            to overwrite or resume.
        WriteError: the path cannot exist.
    """
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume contradict each other. Give one of them.")
    with writing(out):
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out} exists and is not a folder. Choose another --out.")
        occupied = _is_occupied(out)

    if occupied and not (overwrite or resume):
        raise ConfigError(
            f"{out} exists and is not empty. Choose another --out, or add --overwrite to replace "
            f"the run in it, or --resume to continue it."
        )

    # --overwrite deletes files: never in a folder that belongs to something else.
    if occupied and not any((out / name / CONFIG).is_file() for name in (".", OLD, MOVING)):
        raise ConfigError(
            f"{out} is not the folder of a run (no config.json in it), so it is left alone. "
            f"Choose another --out."
        )

    for name in OWN_FILES:
        if (out / name).is_dir() and not (out / name).is_symlink():
            raise ConfigError(
                f"{out / name} is a folder, but a run writes a file of that name. Move it away, or "
                "choose another --out."
            )


def free_folder(out: Path) -> Path:
    """Return a folder for a new run: the one given, or, where something is in it, its name with the next number.

    Example: `runs/a-red-cube`, then `runs/a-red-cube-2`, `runs/a-red-cube-3`.
    """
    number, folder = 1, out
    while folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        number += 1
        folder = out.with_name(f"{out.name}-{number}")
    return folder


def newest_folder(out: Path) -> Path:
    """Return where `free_folder` put the last run: the highest number; `out` if there is none."""
    number, folder = 1, out
    while (later := out.with_name(f"{out.name}-{number + 1}")).is_dir():
        number, folder = number + 1, later
    return folder


@contextmanager
def run_folder(out: Path, *, overwrite: bool = False, resume: bool = False) -> Iterator[RunFolder]:
    """Make the run's folder and keep all others out of it inside the block; arguments as for `check_run_folder`.

    What a killed run left unfinished there is put in order first. If the block fails before the run could take the
    place of another, or before it wrote anything, the folder is left as it was.

    Raises:
        ConfigError: as for `check_run_folder`, or another run is writing into the folder.
        WriteError: the folder cannot be made or written into.
    """
    check_run_folder(out, overwrite=overwrite, resume=resume)
    made = make_folder(out)
    try:
        with _locked(out):
            # Somebody else may have written here since.
            check_run_folder(out, overwrite=overwrite, resume=resume)

            with writing(out):
                _settle(out)
                if resume:
                    _own_links(out)
                for place in (out, out / PREVIEWS):
                    remove_unfinished(place)

                beside = overwrite and _is_occupied(out)
                folder = RunFolder(out, out / NEW if beside else out)
                folder.path.mkdir(exist_ok=True)

            try:
                yield folder
            finally:
                if folder.path != out:
                    shutil.rmtree(folder.path, ignore_errors=True)
    finally:
        _remove_if_empty(out, made)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    # One lock a process and path, so that whoever holds it may take it again.
    lock = FileLock(out / LOCK, timeout=0, is_singleton=True)
    with writing(out):
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"Another run is writing into {out} at this moment. Wait for it or end it, or choose "
                "another --out."
            ) from error
    try:
        yield
    finally:
        lock.release()


def _settle(out: Path) -> None:
    """Bring the change from one run to another to its end, wherever it stopped; a run that never stood goes."""
    old, new, moving = out / OLD, out / NEW, out / MOVING

    if old.is_dir() and new.is_dir() and not moving.is_dir():
        for name in _own_entries(out):
            (old / name).parent.mkdir(exist_ok=True)
            os.replace(out / name, old / name)
        os.replace(new, moving)

    if moving.is_dir():
        # Now the other way round: the file that says whose folder this is comes first.
        for name in reversed(_own_entries(moving)):
            (out / name).parent.mkdir(exist_ok=True)
            os.replace(moving / name, out / name)
        shutil.rmtree(moving)

    for rest in (old, new):
        if rest.is_symlink():
            rest.unlink()
        elif rest.is_dir():
            shutil.rmtree(rest)


def _own_links(out: Path) -> None:
    """Put copies in the place of links among a run's own entries: a run that goes on writes nothing elsewhere."""
    for name in _own_entries(out):
        link = out / name
        if not link.is_symlink():
            continue
        copy = out / f"{TEMPORARY}{link.name}"
        if link.is_dir():
            shutil.copytree(link, copy, symlinks=True)
            link.unlink()
        elif link.is_file():
            shutil.copyfile(link, copy)
        if copy.exists():
            os.replace(copy, link)
        else:
            link.unlink()


def _own_entries(folder: Path) -> list[str]:
    """Return what a run wrote into a folder, config.json last; links are entries themselves and never followed."""
    previews = folder / PREVIEWS
    if previews.is_symlink():
        shown = [PREVIEWS]
    else:
        shown = [f"{PREVIEWS}/{path.name}" for path in sorted(previews.glob("*.png"))]
    names = [CANDIDATES, OBJECTS, *shown, *OWN_FILES]
    return [name for name in names if os.path.lexists(folder / name)]


def _is_occupied(out: Path) -> bool:
    """Return whether anything but what a killed run left unfinished is in the folder."""
    unfinished = (LOCK, NEW)
    return out.is_dir() and any(
        path.name not in unfinished and not path.name.startswith(TEMPORARY)
        for path in out.iterdir()
    )


def _remove_if_empty(out: Path, made: list[Path]) -> None:
    """Remove the folders that were made for a run which wrote nothing."""
    with suppress(OSError):
        if [path.name for path in out.iterdir()] == [LOCK]:
            (out / LOCK).unlink()
        for folder in reversed(made):
            folder.rmdir()

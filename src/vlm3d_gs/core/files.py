"""Files that are either whole or absent: written beside the target, then renamed onto it.

Whatever the file system refuses becomes one error with its cure. Standard library only.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlm3d_gs.core.errors import ExportError, WriteError

TEMPORARY = ".vlm3d-gs-"
"""Names of unfinished files begin with this, so that those of a killed program can be found."""

CURES = {
    errno.ENOSPC: "Free some space, or choose another place.",
    errno.EDQUOT: "Free some of your quota, or choose another place.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or choose another place.",
    errno.EROFS: "Choose a folder that you can write to.",
    errno.EACCES: "Choose a folder that you can write to.",
    errno.EPERM: "Choose a folder that you can write to.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOENT: "Make the folder again, or choose another place.",
    errno.ENOTDIR: "A part of the path is a file, not a folder; choose another place.",
    errno.EISDIR: "Give a file name.",
}
OTHER_CURE = "Choose another place."


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the file system refuses inside the block into an error with its cure.

    Args:
        path: what is being written, for the message.

    Raises:
        WriteError: in place of an `OSError`.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if _names_another(error, Path(path)):
            raise
        raise WriteError(refusal(path, error)) from error


def refusal(path: str | Path, error: OSError) -> str:
    """Return what to tell of a refusal of the file system: its cause and its cure."""
    reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    cure = CURES.get(error.errno or 0, OTHER_CURE)
    return f"Cannot write {path}: {reason[:1].lower()}{reason[1:].rstrip('.')}. {cure}"


def make_folder(path: str | Path) -> list[Path]:
    """Make a folder with its parents, and return those that were not there before, the outermost first.

    Raises:
        WriteError: it cannot be made.
    """
    folder = Path(path)
    with writing(folder):
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def expect_free(path: str | Path, *, overwrite: bool) -> None:
    """Refuse a file that is there already, before any work is done for it.

    Args:
        path: to write.
        overwrite: what is there may be replaced.

    Raises:
        ExportError: it is there.
    """
    if not overwrite and Path(path).is_file():
        raise ExportError(f"{path} exists already. Give another name, or --overwrite.")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Provide a temporary path beside `path` that replaces `path` when the block succeeds.

    A reader never sees half a file, and a failed or interrupted block leaves an existing file
    unchanged; the content is on the disk before it gets its name. The temporary name keeps the
    suffix, because encoders choose the format by it.

    Args:
        path: the file to create or replace; its folder must exist.

    Yields:
        The path to write to.

    Raises:
        ExportError: the folder does not exist, or `path` is a folder.
        WriteError: the file system refuses.
    """
    with writing(path):
        # A link stays one: what it points to is replaced.
        target = Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)
        if not target.parent.is_dir():
            raise ExportError(
                f"Cannot write {target}: the folder {target.parent} does not exist. Create it first."
            )
        if target.is_dir():
            raise ExportError(f"Cannot write {target}: it is a folder. Give a file name.")

        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(6)}{target.suffix}")
        mode = _usual_mode(temporary)
        try:
            yield temporary
            # Some libraries make files that only their owner may read.
            if temporary.stat().st_mode != mode:
                temporary.chmod(stat.S_IMODE(mode))
            _flush(temporary)
            os.replace(temporary, target)
        finally:
            # Already gone if the block succeeded.
            with suppress(OSError):
                temporary.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files that killed programs left in a folder."""
    with suppress(OSError):
        for path in folder.glob(f"{TEMPORARY}*"):
            path.unlink()


def _usual_mode(path: Path) -> int:
    """Return the mode that a new file gets here, by umask; there is no safe way to ask for the umask itself."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
        path.unlink()


def _names_another(error: OSError, path: Path) -> bool:
    """Return whether the error is about another file, which was read on the way."""
    if not isinstance(error.filename, str | os.PathLike):
        return False
    name = Path(error.filename)
    return name != path and name not in path.parents and not name.name.startswith(TEMPORARY)


def _flush(path: Path) -> None:
    """Have the file's content written to the disk, so that a power failure leaves no empty file behind."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have nothing to flush.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)

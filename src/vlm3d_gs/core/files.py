"""Files that are either whole or absent: written beside the target, then renamed onto it.

Standard library only.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlm3d_gs.core.errors import ExportError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Provide a temporary path beside `path` that replaces `path` when the block succeeds.

    A reader never sees half a file, and a failed or interrupted block leaves an existing file
    unchanged. The temporary name keeps the suffix, because encoders choose the format by it.

    Args:
        path: the file to create or replace; its folder must exist.

    Yields:
        The path to write to.

    Raises:
        ExportError: the folder does not exist, or `path` is a folder.
    """
    # A link stays one: what it points to is replaced.
    target = Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)
    if not target.parent.is_dir():
        raise ExportError(
            f"Cannot write {target}: the folder {target.parent} does not exist. Create it first."
        )
    if target.is_dir():
        raise ExportError(f"Cannot write {target}: it is a folder. Give a file name.")

    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        # Already gone if the block succeeded.
        with suppress(FileNotFoundError):
            temporary.unlink()

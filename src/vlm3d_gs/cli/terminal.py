"""The process that a command runs in: what its terminal can show, how much memory it may take."""

from __future__ import annotations

import io
import sys

from vlm3d_gs.core.errors import ConfigError

try:
    import resource
except ImportError:  # not on Windows, which has no such limits
    resource = None  # type: ignore[assignment]

LEAST_BYTES = 5 * 2**29
"""Address space that a run needs with all its libraries, 2.5 GiB; with less, some of them abort the process."""


def speak_any_name() -> None:
    """Let file names that are not text in the terminal's encoding be printed, with backslashes for their bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def expect_room() -> None:
    """Require the address space that a run needs.

    Raises:
        ConfigError: a limit (`ulimit -v`) allows less.
    """
    if resource is None:
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY and allowed < LEAST_BYTES:
        raise ConfigError(
            f"This process may take {allowed / 2**30:.2f} GiB of memory (ulimit -v), and a run needs "
            f"{LEAST_BYTES / 2**30:g} GiB. Raise the limit."
        )

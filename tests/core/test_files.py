from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vlm3d_gs.core.files import atomic_path


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_files_get_the_mode_that_the_umask_says_even_from_libraries_that_hide_theirs(
    tmp_path: Path,
) -> None:
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.touch(mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640

"""The compiled code with bounds checked, in a process of its own: checks cost time, and are compiled in.

Numba raises IndexError for an index out of bounds there; here such an index would read or write
wherever it points to, and the process might die.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = ("tests/render/bounds_render.py", "tests/mesh/bounds_mesh.py")


@pytest.mark.slow
def test_no_input_leads_compiled_code_out_of_bounds(tmp_path: Path, repo_root: Path) -> None:
    paths = os.pathsep.join([str(repo_root / "src"), str(repo_root / "tests")])
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES]
    done = subprocess.run(
        command,
        cwd=repo_root,
        env={**os.environ, **checked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert any(tmp_path.rglob("*.nbi")), "compiled here, with the checks"

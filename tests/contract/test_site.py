"""The site's sources are complete: every page of the menu is there, every link between pages leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s#]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = spec_from_file_location("make_site", Path(__file__).parents[2] / "docs" / "make_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("site") / "source"
    module.assemble(folder)
    return folder


def test_every_page_of_the_menu_is_there(source: Path, repo_root: Path) -> None:
    pages = re.findall(r": (\S+\.md)$", (repo_root / "mkdocs.yml").read_text(), re.M)
    assert len(pages) > 15
    assert not [name for name in pages if not (source / name).is_file()]


def test_links_between_the_pages_lead_somewhere(source: Path) -> None:
    dead = [
        f"{page.relative_to(source)}: {target}"
        for page in source.rglob("*.md")
        for target in LINK.findall(re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.S))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not dead


def test_pages_made_from_the_code_have_its_content(source: Path) -> None:
    settings = (source / "docs" / "settings.md").read_text()
    assert "| `critic.weight` |" in settings
    large = (source / "docs" / "large-models.md").read_text()
    assert "| 24 GB | full" in large
    assert "**m**" in large


@pytest.mark.skipif(find_spec("material") is None, reason="the extra `docs` is not installed")
def test_mkdocs_builds_it_strictly(source: Path, repo_root: Path, tmp_path: Path) -> None:
    config = (repo_root / "mkdocs.yml").read_text().replace("build/site-source", str(source))
    (tmp_path / "mkdocs.yml").write_text(config)
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    build += ["--config-file", tmp_path / "mkdocs.yml", "--site-dir", tmp_path / "site"]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

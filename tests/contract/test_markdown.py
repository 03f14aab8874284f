"""Markdown that can be read and compared as text: wrapped lines, links that lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

WIDTH = 100
"""Columns of prose; tables, code and lines that hold nothing but a link may be longer."""
FOLDERS = (
    ".",
    "docs",
    "docs/log",
    "docs/site",
    "benchmarks",
    "deploy/space",
    "examples",
    "integrations/blender",
    "integrations/comfyui",
    "src/vlm3d_gs/mini/weights",
)
MADE = {("..", "settings.md"), ("..", "large-models.md")}
"""Pages that docs/make_site.py writes; tests/contract/test_site.py checks links to them."""
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def pages(root: Path) -> list[Path]:
    found = [path for folder in FOLDERS for path in sorted((root / folder).glob("*.md"))]
    assert root / "docs" / "ARCHITECTURE.md" in found
    return found


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield numbers and texts of the lines that are neither in a table nor in a block of code."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("|", "    ")):
            yield number, line


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_lines_are_wrapped(repo_root: Path) -> None:
    long = [
        f"{page.relative_to(repo_root)}:{number} has {len(line)} columns"
        for page in pages(repo_root)
        for number, line in prose(page)
        if len(line) > WIDTH and not LINK.fullmatch(line.strip(" -*.,"))
    ]
    assert not long, "\n".join(long)


def test_links_lead_somewhere(repo_root: Path) -> None:
    dead = []
    for page in pages(repo_root):
        for target in LINK.findall(page.read_text()):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            path = page.parent / name if name else page
            if (path.parent.name, path.name) in MADE and page.parent.name == "site":
                continue
            if not path.exists() or (anchor and anchor not in anchors(path)):
                dead.append(f"{page.relative_to(repo_root)}: {target}")
    assert not dead, "\n".join(dead)


def test_files_that_the_documents_name_exist(repo_root: Path) -> None:
    """The log is left out: its names are those of the commits it tells of."""
    places = (repo_root, repo_root / "src" / "vlm3d_gs", repo_root / "benchmarks")
    missing = [
        f"{page.relative_to(repo_root)} names {name}"
        for page in pages(repo_root)
        if page.parent.name != "log" and page.name != "CHANGELOG.md"
        for name in re.findall(r"`([\w./-]+\.py)`", page.read_text())
        if not any((place / name).exists() for place in places)
    ]
    assert not missing, "\n".join(missing)

"""Assembles the sources of the site: the project's own documents, and pages made from its code.

Usage: python docs/make_site.py FOLDER, then mkdocs (`make docs` does both).

The folder mirrors the repository, so that links between documents stay as they are; README.md becomes its first page.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from vlm3d_gs.app.settings import list_settings
from vlm3d_gs.assembly.expectation import CARDS, duration, expected, row_of
from vlm3d_gs.assembly.forecast import planned_memory
from vlm3d_gs.assembly.memory import need_mib
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.residency import PLANS

ROOT = Path(__file__).parents[1]
MIRRORED = ("docs", "benchmarks/README.md", "benchmarks/rivals.md", "CHANGELOG.md", "LICENSE")
MIRRORED += ("CONTRIBUTING.md", "src/vlm3d_gs/mini/weights/README.md", "benchmarks/results")
PROMPT = "a corgi"
CASES = (("mvdream", None), ("mvdream", "qwen2.5-vl-7b"), ("sd", None), ("sdxl", None))
"""Presets and critics of the table by card."""
SIZES_GB = (8, 12, 16, 24, 48, 80)


def assemble(folder: Path) -> None:
    """Write all sources into a folder, which is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in MIRRORED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.is_file():
            shutil.copy(source, target)

    (folder / "index.md").write_text((ROOT / "README.md").read_text(encoding="utf-8"), "utf-8")
    (folder / "docs" / "settings.md").write_text("\n".join(settings_page()), "utf-8")
    (folder / "docs" / "large-models.md").write_text("\n".join(large_page()), "utf-8")
    examples = folder / "examples"
    examples.mkdir()
    (examples / "index.md").write_text("\n".join(examples_page()), "utf-8")

    for page in folder.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        text = (
            re.sub(r"\]\(((?:\.\./)*)README\.md", r"](\1index.md", text)
            if _beside(page, folder)
            else text
        )
        page.write_text(text.replace("](examples/)", "](examples/index.md)"), "utf-8")


def _beside(page: Path, folder: Path) -> bool:
    """Return whether a page's links to README.md mean the project's own, not that of its folder."""
    return not (page.parent / "README.md").is_file() or page.parent == folder


def settings_page() -> Iterator[str]:
    """Yield the lines of the page of settings, from the dataclasses and their docstrings."""
    yield "# Settings\n"
    yield "All that `--set NAME=VALUE` changes, with the value in the preset `mini`.\n"
    section = None
    for item in list_settings(preset("mini", PROMPT)):
        head = item.name.rpartition(".")[0] or "run"
        if head != section:
            section = head
            yield f"\n## {head}\n"
            yield "| name | in `mini` | allowed | meaning |\n|---|---|---|---|"
        cells = (f"`{item.name}`", f"`{item.value}`", item.allowed, item.help)
        yield (
            "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        )


def large_page() -> Iterator[str]:
    """Yield the lines of the page of large models: what fits on which card, and for how long."""
    yield "# Large models by card\n"
    yield "Memory is estimated from the published sizes of the models (`vlm3d-gs plan` says it for any run);"
    yield "the first plan that fits is named. Times of rows that were measured are marked with **m**; others"
    yield "are those, scaled by the rates that the cards' makers state, and nobody has checked them."
    yield "Measured was with random weights: `sd` by distillation, `mvdream` by a sketch of its loop,"
    yield "extrapolated to the whole of it.\n"
    names = [f"{name}{f' + {critic}' if critic else ''}" for name, critic in CASES]
    yield "| card | " + " | ".join(names) + " |"
    yield "|---|" + "---|" * len(names)
    for size in SIZES_GB:
        yield f"| {size} GB | " + " | ".join(_fits(_case(*case), size) for case in CASES) + " |"
    yield ""
    yield "| time on | " + " | ".join(names) + " |"
    yield "|---|" + "---|" * len(names)
    for card, (_, memory) in CARDS.items():
        cells = (_time(_case(*case), card) for case in CASES)
        yield f"| {card}, {memory} GB | " + " | ".join(cells) + " |"
    yield "\nWhere weights come from and their licences: [models](MODELS.md)."
    yield "Nobody has yet looked at what these presets make with the published weights."


def _case(name: str, critic: str | None) -> Config:
    values = {"critic.enabled": True, "critic.family": critic} if critic else {}
    return apply_settings(preset(name, PROMPT), values)


def _fits(config: Config, gigabytes: int) -> str:
    memory = planned_memory(config)
    for plan in PLANS:
        if need_mib(memory, plan) < 0.95 * 1024 * gigabytes:
            return f"{plan}, {need_mib(memory, plan) / 1024:.1f} GiB"
    return "no"


def _time(config: Config, card: str) -> str:
    found, row = expected(config, card, 1), row_of(config)
    if found is None or row is None:
        return "not measured"
    return f"{duration(found.seconds)}{' **m**' if card == row.card else ''}"


def examples_page() -> Iterator[str]:
    """Yield the lines of the page of examples: the scripts, as they are."""
    yield "# Examples\n"
    for path in sorted((ROOT / "examples").glob("*.py")):
        yield f"## {path.name}\n\n```python\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"


if __name__ == "__main__":
    assemble(Path(sys.argv[1]))

"""docs/FORMATS.md says what the table of formats and the tests say; `python test_formats_page.py` writes it anew."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from splat_files import CASES, Case
from vlm3d_gs.formats.options import AXES
from vlm3d_gs.formats.registry import FORMATS, SplatFormat, format_of_suffix

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "FORMATS.md"
BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"

CHECKS = {
    "ply": {
        "splat-transform 3.7.0": "integration/test_splat_readers.py::test_splat_transform_reads_ours",
        "gsply 0.4.6": "integration/test_splat_readers.py::test_gsply_reads_ours",
        "plyfile": "formats/test_ply.py::test_layout_is_the_one_that_viewers_load",
    },
    "compressed.ply": {
        "splat-transform 3.7.0": "integration/test_splat_readers.py::test_splat_transform_reads_ours",
        "gsply 0.4.6": "integration/test_splat_readers.py::test_gsply_reads_ours",
    },
    "splat": {
        "splat-transform 3.7.0": "integration/test_splat_readers.py::test_splat_transform_reads_ours"
    },
    "spz": {
        "splat-transform 3.7.0": "integration/test_splat_readers.py::test_splat_transform_reads_ours",
        "gsply 0.4.6": "integration/test_splat_readers.py::test_gsply_reads_ours",
    },
    "glb": {
        "three 0.187": "integration/test_splat_readers.py::test_three_loads_our_glb",
        "gltf-validator 2.0.0-dev.3.10": "integration/test_splat_readers.py::"
        "test_the_gltf_validator_finds_only_what_it_does_not_know",
        "trimesh": "integration/test_splat_readers.py::test_trimesh_sees_our_glb_as_points",
    },
    "usd": {"usd-core 26.11": "formats/test_info.py::test_usd_holds_what_the_schema_says"},
    "sog": {
        "splat-transform 3.7.0": "integration/test_splat_readers.py::test_splat_transform_reads_ours"
    },
    "ksplat": {
        "GaussianSplats3D 0.4.7": "formats/test_ksplat.py::"
        "test_files_of_its_own_program_hold_the_scene",
        "splat-transform 3.7.0": "integration/test_splat_readers.py::"
        "test_splat_transform_finds_the_same_in_a_ksplat",
    },
}
"""Format -> software outside this project that reads our files (or wrote what we read), and the test for it."""


def table(header: str, rows: list[list[str]]) -> str:
    columns = header.count("|") - 1
    lines = [header, "|" + "---|" * columns]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def lost(row: SplatFormat) -> str:
    """What a format does not keep, from its row."""
    if not row.writes:
        return "nothing on reading"
    words = [] if row.lossless else ["digits (see below)"]
    if row.sh_degree < 3:
        words.append("harmonics" if row.sh_degree == 0 else f"degrees above {row.sh_degree}")
    if row.color_range:
        low, high = row.color_range
        words.append(f"colours outside {low:g}..{high:g}")
    if row.sh_range:
        words.append(f"coefficients outside ±{row.sh_range:g}")
    if row.grid:
        over = "a chunk" if row.grid == "chunks" else "the scene"
        words.append(f"positions when one of {over} is far off")
    words += [] if row.holds_text else ["comments"]
    words += [] if row.holds_filter else ["the mark of the mip filter"]
    return ", ".join(words) or "nothing but rounding"


def _read(row: SplatFormat) -> str:
    """What is read beside what is written."""
    if row.writes:
        return row.reads
    return " ".join(f"`{suffix}`" for suffix in row.all_suffixes) + f": {row.reads}"


def support() -> str:
    rows = []
    for row in FORMATS:
        written = " ".join(f"`{suffix}`" for suffix in row.suffixes) or "no"
        others = ", ".join(f"`{frame}`" for frame in row.frames if frame != row.frame)
        axes = f"`{row.frame}`" + (f" ({others})" if others else "")
        checks = ", ".join(CHECKS[row.name])
        rows.append(
            [row.title, written, _read(row), axes, f"0 to {row.sh_degree}", lost(row), checks]
        )
    return table(
        "| format | writes | reads also | axes (others on request) | degrees | lost | checked by |",
        rows,
    )


def stored() -> str:
    return table(
        "| format | scale | opacity | rotation | harmonics |",
        [[row.title, row.scales, row.opacities, row.rotations, row.harmonics] for row in FORMATS],
    )


def errors() -> str:
    def named(case: Case) -> str:
        title = format_of_suffix(f"a{case.suffix}").title
        return f"{title} {case.options.spz_version}" if case.suffix == ".spz" else title

    rows = {}
    for case in CASES:
        numbers = (case.means, case.log_scales, case.turns, case.opacities, case.colors, case.rest)
        rows.setdefault(named(case), [named(case), *(f"{number:.1g}" for number in numbers)])
    header = "| format | position | log scale | rotation | opacity | colour | harmonics |"
    return table(header, list(rows.values()))


def page(text: str) -> str:
    """Return the page with its tables made anew."""
    axes = table(
        "| `--frame` | as the front camera sees the object |",
        [[f"`{frame}`", words] for frame, words in AXES.items()],
    )
    tables = {"axes": axes, "support": support(), "stored": stored(), "errors": errors()}
    for name, content in tables.items():
        head, begin, rest = text.partition(BEGIN.format(name))
        _, end, tail = rest.partition(END)
        assert begin, name
        assert end, name
        text = f"{head}{begin}\n\n{content}\n\n{end}{tail}"
    return text


def test_the_page_is_what_the_tables_make() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "run: python tests/formats/test_formats_page.py"


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_other_software_checks_every_format_in_a_test_that_exists(row: SplatFormat) -> None:
    assert CHECKS[row.name]
    for place in CHECKS[row.name].values():
        file, _, name = place.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))

"""Write benchmarks/README.md from the JSON files in benchmarks/results, and from nothing else.

    python benchmarks/tables.py           # writes it
    python benchmarks/tables.py --check   # exit code 1 if the page is stale

One table for each theme and machine, from the newest file of each; the columns are the fields of its rows. Where
variants of a run are compared over many prompts and seeds, one row for each variant, with shares and means.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER / "README.md"
HEAD = """# Benchmarks

How fast it is, and how good. `python benchmarks/tables.py` makes this page from the files in
`results/`. Each of them names its machine, versions, commit and command (`--out` is where the file
was first written), and holds the spread of repeated timings. [rivals.md](rivals.md) explains how
others were measured, [docs/log](../docs/log/README.md) what the numbers mean. `vlm3d-gs bench`
times the sections of a step on your machine; `make gpu-check` runs everything that needs a GPU.

| theme | script | question |
|---|---|---|
| an asset | `count_asset.py` | what the networks of a whole run compute, ours and those of others, counted |
| asset | `bench_asset.py` | how long until a scene is right, and clean, for good, by the checker |
| command | `bench_command.py` | whole commands from process start to the last file, checkouts in turn |
| composition | `bench_composition.py` | how often scenes are right; its tables are in docs/log/composition.md |
| critic | `bench_critic.py` | what a forward and backward pass costs; `ratio` is to the first row |
| formats | `bench_formats.py` | a million Gaussians of degree 3, read and written; `lost`: share of the harmonics |
| kernels | `bench_kernels.py` | the CUDA kernels; `copy_share` is of a plain copy's rate |
| large | `bench_large.py` | a step with models of real sizes and random weights, ours and those of others |
| render | `bench_render.py` | the renderers; `pairs` counts each Gaussian with each pixel that it covers |
| reward | `bench_reward.py` | what the critic is worth; `binding`: colours on the right objects, `content`: all of it |
| scaling | `bench_scaling.py` | a step by Gaussians, pixels, views, and how often the critic runs |

A floor is the time that the counted operations need at the arithmetic rate measured on that machine
in that run. The kernels `reconstruction` and `critic_patches` were removed after they had been
timed, since no run used them; what that table calls a twin is the reference in torch.

In "an asset" nothing is timed, and the machine does not matter. The runs are whole, by our own
loop, with stand-ins for the networks that count what those of real sizes would compute: MVDream at
256 px, Stable Diffusion 2.1 at 512 px, Qwen2.5-VL-7B at 252 px. `evaluations` are pictures through
the denoiser, both branches of guidance counted, `encodes` and `decodes` pictures through the
autoencoder, `looks` scenes read by the critic, those of the watch included; `with_gradient` are
those of them that are differentiated. `tflop` is 10^12 floating-point operations of all networks,
backward passes included as torch counts them for frozen weights. `of_vlm3d` and `of_distilled` are
its ratios to the released VLM3D and to our own distillation, that with the critic for rows that ask
one. MicroDreamer and DreamGaussian are counted until their splat is there, without the refinement
of a mesh's texture, and MicroDreamer on MVDream's networks: its own ImageDream has a fifth picture
beside the four. `measured` are seconds near the row, with random weights, but not of the row: on an
H200 a sketch of our loop with other rounds and 20,000 Gaussians, without start and export
(docs/log/large-models.md), on an H100 our distillation as it was in an earlier version.
"""
SPREAD = ("best", "worst", "quartile", "cpu_median", "repeats", "device_best", "device_worst")
"""Beginnings of the names of fields that are not shown."""
MAX_COLUMNS = 14
WIDTH = 100
"""Columns of the page's prose."""
WHOLE = 1e4
"""Larger numbers are shown without decimals."""


def newest(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the newest result of each theme on each kind of machine."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in folder.glob("*.json"):
        result = json.loads(path.read_text())
        if "theme" not in result:
            continue  # a report of another kind

        machine = result["machine"]
        key = (result["theme"], machine["gpu"] or f"{machine['cores']} cores, {machine['cpu']}")
        if key not in found or result["time_utc"] > found[key]["time_utc"]:
            found[key] = result | {"file": path.name}
    return dict(sorted(found.items()))


def by_variant(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per variant: its number of runs, the share of true for flags, the mean for numbers."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["variant"], []).append(row)

    return [
        {"variant": variant, "runs": len(runs)}
        | {
            name: f"{fmean(run[name] for run in runs):.0%}"
            if isinstance(value, bool)
            else fmean(run[name] for run in runs)
            for name, value in runs[0].items()
            if isinstance(value, int | float) and name != "seed"
        }
        for variant, runs in groups.items()
    ]


def flat(row: dict[str, Any]) -> dict[str, str]:
    """Return a row's fields as text, without the spread of its timings and without nested fields."""
    cells: dict[str, str] = {}
    for name, value in row.items():
        if name.startswith(SPREAD) or isinstance(value, dict):
            continue
        if isinstance(value, float):
            cells[name] = f"{value:.4g}" if abs(value) < WHOLE else f"{value:.0f}"
        elif isinstance(value, list):
            cells[name] = "x".join(map(str, value))
        elif value is None:
            cells[name] = "never"
        else:
            cells[name] = str(value).replace("|", "/").replace("\n", " ")[:80]
    return cells


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return rows as Markdown, one table for each set of fields."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in map(flat, rows):
        groups.setdefault(tuple(row)[:MAX_COLUMNS], []).append(row)

    tables = []
    for columns, members in groups.items():
        lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(row[name] for name in columns)} |" for row in members]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def page(folder: Path) -> str:
    """Return the whole page."""
    sections = [HEAD]
    for (theme, machine), result in newest(folder).items():
        versions = result["machine"]["versions"]
        rows, note = result["rows"], result.get("commit_note", "")
        note = f" ({note})" if note else ""

        origin = (
            f"{result['time_utc'][:10]}, commit {result['commit']}{note}, "
            f"torch {versions.get('torch')},"
        )
        if all("variant" in row for row in rows):
            rows = by_variant(rows)

        sections.append(
            f"## {theme.replace('_', ' ')}: {machine}\n\n"
            f"{fill(origin, WIDTH)}\n[results/{result['file']}](results/{result['file']})\n\n"
            f"    {result['command']}\n\n"
            f"{as_table(rows)}\n"
        )
    return "\n".join(sections)


def main() -> int:
    """Write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if it is stale"
    )
    made = page(FOLDER / "results")
    if parser.parse_args().check:
        return 0 if PAGE.is_file() and PAGE.read_text() == made else 1
    PAGE.write_text(made)
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How often a run shows what its prompt says: every prompt of a list, several seeds, with and without the critic.

    python benchmarks/bench_composition.py --seeds 3 --critic on --runs runs/table --threads 2

Runs that are already in the folder are kept, so an interrupted table can be resumed, and several processes can share
the work (`--part 0/2` does its share of the runs and prints no table). The checker looks at the exported Gaussians only
(`vlm3d_gs.evaluate.composition`). Prints tables as Markdown and writes the rows as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from harness import ROOT

from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.run import folder_name
from vlm3d_gs.evaluate.runs import evaluate_run, markdown_table
from vlm3d_gs.pipeline import generate

PROMPTS = ROOT / "tests" / "golden" / "prompts.txt"


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file, one per line; lines that start with # are comments."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def generate_missing(
    cases: list[tuple[int, str]], folder: Path, critic: bool, settings: list[str]
) -> list[Path]:
    """Do the runs of (seed, prompt) that are missing; return the folders of all."""
    outs = []
    for seed, prompt in cases:
        out = folder / f"{folder_name(prompt)}-{seed}"
        outs.append(out)
        if not (out / "summary.json").is_file():
            values = {
                "out": out,
                "train.seed": seed,
                "critic.enabled": critic,
                "export.formats": "ply,sheet",
            }
            config = apply_settings(preset("mini", prompt), values, settings)
            generate(config, overwrite=out.exists(), quiet=True)
            print(f"done {out.name}", flush=True)
    return outs


def table(outs: list[Path], folder: Path, critic: bool) -> None:
    """Check all runs, and print and write the results."""
    rows, seconds = [], []
    for out in outs:
        rows.append(evaluate_run(out))
        seconds.append(json.loads((out / "summary.json").read_text())["seconds"])
        report = rows[-1].report
        print(
            f"{'ok ' if report.ok else 'no '} {out.name}: {'; '.join(report.reasons[:2])}",
            flush=True,
        )

    (folder / "rows.json").write_text(json.dumps([row.to_dict() for row in rows], indent=1) + "\n")
    print(
        f"\n{'with' if critic else 'without'} critic, {statistics.median(seconds):.1f} s a run (median)\n"
    )
    print(markdown_table(rows))


def main() -> None:
    """Do the missing runs and make the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=Path, default=PROMPTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--critic", choices=["on", "off", "both"], default="both")
    parser.add_argument("--runs", type=Path, default=Path("runs/table"))
    parser.add_argument("--part", default="", help="i/n: do only every n-th run, from the i-th")
    parser.add_argument("--threads", type=int, default=0, help="0 takes torch's choice")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="a.b=c")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    cases = [(s, p) for s in range(options.seeds) for p in read_prompts(options.prompts)]
    for critic in {"on": [True], "off": [False], "both": [False, True]}[options.critic]:
        folder = options.runs / ("with_critic" if critic else "without_critic")
        if options.part:
            first, stride = (int(number) for number in options.part.split("/"))
            generate_missing(cases[first::stride], folder, critic, options.settings)
        else:
            table(generate_missing(cases, folder, critic, options.settings), folder, critic)


if __name__ == "__main__":
    main()

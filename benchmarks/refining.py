"""Damaged splats refined: how many go from wrong to right by the checker, and whether any is made worse.

    python benchmarks/refining.py --out runs/refining

Sixteen splats (tests/evaluate/damaged_splats.py) with bites, floaters, a recoloured side, objects in each other's
place, or blur. What is there already is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
from harness import ROOT, commit

from vlm3d_gs.app.refine import refine_splat
from vlm3d_gs.config.presets import preset
from vlm3d_gs.evaluate.composition import evaluate
from vlm3d_gs.formats.convert import read_splat, write_splat

sys.path.insert(0, str(ROOT / "tests" / "evaluate"))
import damaged_splats


def main() -> None:
    """Refine and check what is missing, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "refining.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {row["case"] for row in rows}

    # A case of each kind in turn, so that a table that is cut short has all kinds.
    order = sorted(range(len(damaged_splats.CASES)), key=lambda case: (case % 3, case))
    for case in order:
        if case in done:
            continue
        prompt, damage, splat = damaged_splats.damaged(case)
        source, out = (arguments.out / f"{case:02}-{name}.ply" for name in (damage, "refined"))
        write_splat(splat, source)
        before, began = evaluate(splat, prompt), time.process_time()
        result = refine_splat(source, preset("mini", prompt), out, overwrite=True, quiet=True)
        cpu_s = time.process_time() - began
        after = evaluate(read_splat(out), prompt)
        row = {
            "case": case,
            "prompt": prompt,
            "damage": damage,
            "before": before.ok,
            "after": after.ok,
            "accepted": result.accepted,
            "noise_level": result.noise_level,
            "judge": [result.before, result.after],
            "reasons_before": before.reasons,
            "reasons_after": after.reasons,
            "cpu_s": round(cpu_s, 1),
            "commit": commit(),
        }
        rows.append(row)
        with file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    wrong = [row for row in rows if not row["before"]]
    print(f"{sum(row['after'] for row in wrong)} of {len(wrong)} from wrong to right")
    print(f"{sum(row['before'] and not row['after'] for row in rows)} from right to wrong")


if __name__ == "__main__":
    main()

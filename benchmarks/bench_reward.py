"""What the critic's reward is worth, against ground truth: distillation alone, the paper's recipe, and our default.

    python benchmarks/bench_reward.py --prior multi-view --seeds 3 --runs runs/reward --threads 1

Sixteen prompts of two objects, the embedded models, equal steps; `longer` is distillation alone with several times the
steps. Each run is judged from its Gaussians alone (`evaluate.composition`) and scored by the critic with held-out
questions. Two numbers measure noise, each relative to distillation alone with the same seed: the total variation of the
renders, which also grows where an object stands that the other run lacks, and their roughness, which is the total
variation over that of the same renders averaged over 8 x 8 px: outlines do not change it, noise does. Runs that are
already in the folder are kept, so an interrupted table can be resumed, and several processes can share the work
(`--part 0/2`); `--read-only` then makes the table of all.

`single-view` is the same prior, asked for one picture at a time without a camera, so that it knows no space: there the
critic must hold the layout to the end (preset `mini-single`). `paper/100` is the paper's recipe with a hundredth of its
weight: as it is, its gradient on the renders is 16 to 1,600 times as long as the embedded prior's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench_composition import PROMPTS, read_prompts
from harness import ROOT, record

from vlm3d_gs.config import Config, apply_settings, from_dict
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.recipes import apply_recipe
from vlm3d_gs.config.run import folder_name
from vlm3d_gs.config.schedules import Schedule
from vlm3d_gs.core.prompts import parse_composition, parse_prompt
from vlm3d_gs.critic.judge import Judge
from vlm3d_gs.critic.questions.checklist import held_out_questions
from vlm3d_gs.critic.questions.templates import VIEW_NAMES
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.critic.watch import GREY, HELD_OUT_SCALE, HELD_OUT_VIEWS, named_views
from vlm3d_gs.evaluate.runs import evaluate_run
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.pipeline import generate
from vlm3d_gs.render import render

VARIANTS = ("none", "longer", "paper", "paper/100", "ours")
SIDE_PX = 64
COARSE = 8
"""Side of the blocks that are averaged for the roughness, px."""
PRESETS = {"multi-view": "mini", "single-view": "mini-single"}
LONGER = {"multi-view": 2, "single-view": 4}
"""Factor on the steps of the other variants; the table has the seconds."""


def config_of(
    prompt: str, variant: str, prior: str, seed: int, out: Path, settings: list[str]
) -> Config:
    """Return the config of one run."""
    base = preset(PRESETS[prior], prompt)
    if variant.startswith("paper"):
        base = apply_recipe(base, "vlm3d-paper")

    values: dict[str, Any] = {
        "out": out,
        "train.seed": seed,
        "critic.enabled": variant not in ("none", "longer"),
        "critic.watch.enabled": variant == "ours",
        "export.formats": "ply,sheet",
    }

    if variant == "longer":
        values["train.steps"] = LONGER[prior] * base.train.steps
    if variant == "paper/100":
        weight = base.critic.weight
        points = tuple((at, value / 100.0) for at, value in weight.points)
        values["critic.weight"] = Schedule(weight.kind, points)

    return apply_settings(base, values, settings)


def measure_run(folder: Path, model: YesNoModel) -> dict[str, Any]:
    """Return one run's verdict by the checker, its held-out scores and its noise."""
    row = evaluate_run(folder)
    config = from_dict(json.loads((folder / "config.json").read_text())["config"])
    summary = json.loads((folder / "summary.json").read_text())
    gaussians = read_splat(folder / "scene.ply")

    judge = Judge(model, held_out_questions(parse_prompt(config.prompt)), size_px=SIDE_PX)
    scores = []
    for offset, place in HELD_OUT_VIEWS:
        cameras = named_views(config.camera, offset, place, SIDE_PX * HELD_OUT_SCALE)
        scores.append(judge.answers(render(gaussians, cameras, background=GREY).color, VIEW_NAMES))

    cameras = named_views(config.camera, 0.0, 0.5, SIDE_PX * HELD_OUT_SCALE)
    color = render(gaussians, cameras, background=GREY).color
    coarse = F.avg_pool2d(color.movedim(-1, 1), COARSE).movedim(1, -1)

    return {
        "prompt": row.prompt,
        "seed": row.seed,
        "steps": summary["steps"],
        "relation": bool(row.report.relation_right),
        "binding": all(item.color_right for item in row.report.objects),
        "shape": all(item.shape_right for item in row.report.objects),
        "content": row.report.content_right,
        "held_out_semantic": statistics.mean(score["semantic"] for score in scores),
        "held_out_geometric": statistics.mean(score["geometric"] for score in scores),
        "total_variation": variation(color),
        "roughness": COARSE * variation(color) / max(variation(coarse), 1e-12),
        "seconds": summary["seconds_before_export"],
    }


def variation(color: torch.Tensor) -> float:
    """Return the mean absolute difference of neighbouring pixels of pictures [V, H, W, 3]."""
    return float((color.diff(dim=1).abs().mean() + color.diff(dim=2).abs().mean()) / 2.0)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the variants as a Markdown table; noise is the mean ratio to `none` of the same prompt and seed."""
    lines = [
        "| variant | runs | steps | relation | binding | shape | all three | held-out content | held-out geometry "
        "| total variation | roughness | s a run |",
        f"|{'---|' * 12}",
    ]
    alone = {(r["prompt"], r["seed"]): r for r in rows if r["variant"] == "none"}
    for variant in dict.fromkeys(r["variant"] for r in rows):
        runs = [r for r in rows if r["variant"] == variant]
        pairs = [(r, alone[key]) for r in runs if (key := (r["prompt"], r["seed"])) in alone]

        ratios = [
            f"{statistics.mean(r[name] / base[name] for r, base in pairs):.3f}" if pairs else "-"
            for name in ("total_variation", "roughness")
        ]
        shares = [
            f"{100.0 * statistics.mean(r[name] for r in runs):.0f} %"
            for name in ("relation", "binding", "shape", "content")
        ]
        scores = [
            f"{statistics.mean(r[name] for r in runs):.2f}"
            for name in ("held_out_semantic", "held_out_geometric")
        ]
        seconds = statistics.median(r["seconds"] for r in runs)

        cells = [variant, len(runs), runs[0]["steps"], *shares, *scores, *ratios, f"{seconds:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", choices=["multi-view", "single-view"], default="multi-view")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=16, help="how many of the sixteen")
    parser.add_argument("--steps", type=int, help="of every run; default: the preset's")
    parser.add_argument("--runs", type=Path, default=Path("runs/reward"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument(
        "--part", default="0/1", help="i/n: run only every n-th prompt, from the i-th"
    )
    parser.add_argument("--read-only", action="store_true", help="run nothing, read what is there")
    parser.add_argument("--threads", type=int, default=0, help="0 takes torch's choice")
    parser.add_argument("--label", default="", help="suffix of the folder, for other settings")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="a.b=c")
    return parser.parse_args()


def main() -> None:
    """Do the missing runs, print the table and write the JSON."""
    options = parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = list(options.settings)
    if options.steps:
        settings.append(f"train.steps={options.steps}")
    first, stride = (int(number) for number in options.part.split("/"))

    prompts = [
        prompt for prompt in read_prompts(PROMPTS) if parse_composition(prompt).relation is not None
    ]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    scenes = [(s, p) for s in seeds for p in prompts[: options.prompts]]
    cases = [(k, *scene, v) for k, scene in enumerate(scenes) for v in options.variants.split(",")]

    model = YesNoModel(embedded_weights("critic"), torch.device("cpu"))
    rows: list[dict[str, Any]] = []
    for index, seed, prompt, variant in cases:
        folder = options.runs / f"{options.prior}{options.label}" / variant.replace("/", "-")
        out = folder / f"{folder_name(prompt)}-{seed}"
        if not (out / "summary.json").is_file():
            if options.read_only or index % stride != first:
                continue
            config = config_of(prompt, variant, options.prior, seed, out, settings)
            generate(config, overwrite=out.exists(), quiet=True)

        rows.append({"variant": variant, **measure_run(out, model)})
        print(f"{variant:9} {prompt} #{seed}: {rows[-1]['content']}", flush=True)

    print(f"\n{options.prior}{options.label}\n\n{table(rows)}")
    record(f"reward_{options.prior}{options.label}", rows, options.out)


if __name__ == "__main__":
    main()

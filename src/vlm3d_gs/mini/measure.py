"""How good the embedded models are: `python -m vlm3d_gs.mini.measure --what codec|prior|critic`.

Held-out scenes come from seeds that training never used; held-out combinations are those of `world.is_held_out`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.prompts import Composition
from vlm3d_gs.critic.questions.templates import VIEW_NAMES
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.mini.critic.data import sample_critic_batch
from vlm3d_gs.mini.prior.data import sample_batch, step_rng
from vlm3d_gs.mini.world.recognize import Recognizer, all_compositions
from vlm3d_gs.mini.world.scenes import FOV_DEG, IMAGE_PX, N_VIEWS, canonical, sample_composition
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.prior.denoiser import Denoiser, decode_latents, encode_images
from vlm3d_gs.prior.loading.pipeline import load_denoiser
from vlm3d_gs.prior.loading.text import embed_texts
from vlm3d_gs.prior.sampling import sample_views

TEST_SEED = 987_654_321
PROMPTS_PER_BATCH = 8


def measure_codec(denoiser: Denoiser, n_scenes: int = 64) -> dict[str, float]:
    """Return the PSNR in dB of decoding what was encoded, over new scenes."""
    color = sample_batch(step_rng(TEST_SEED, 0), n_scenes, held_out=None).color.flatten(0, 1)
    with torch.inference_mode():
        error = (decode_latents(denoiser, encode_images(denoiser, color)) - color).square().mean()
    return {"psnr_db": float(-10.0 * torch.log10(error))}


def measure_prior(folder: Path, n_two: int = 48, guidance_scale: float = 5.0) -> dict[str, float]:
    """Return the share of 30-step samples whose views show just what the prompt says; `folder` is the pipeline."""
    rng = step_rng(TEST_SEED, 1)
    groups = {
        "one object": all_compositions(1),
        "two objects": [sample_composition(rng, 2, False) for _ in range(n_two)],
        "two objects, held out": [sample_composition(rng, 2, True) for _ in range(n_two)],
    }
    return {
        name: _prompts_right(folder, compositions, guidance_scale, seed)
        for seed, (name, compositions) in enumerate(groups.items())
    }


def _prompts_right(
    folder: Path, compositions: Sequence[Composition], scale: float, seed: int
) -> float:
    device = torch.device("cpu")
    denoiser = load_denoiser(folder, device)
    texts = embed_texts(folder, ["", *map(str, compositions)], device)
    azimuths = [360.0 * view / N_VIEWS for view in range(N_VIEWS)]
    cameras = orbit(azimuths, 15.0, 3.05, FOV_DEG, IMAGE_PX, IMAGE_PX)
    recognize = Recognizer(cameras, len(compositions[0].objects))
    generator = torch.Generator().manual_seed(seed)
    right = 0
    for start in range(0, len(compositions), PROMPTS_PER_BATCH):
        part = compositions[start : start + PROMPTS_PER_BATCH]
        shown_texts = texts.rows([0, *range(1 + start, 1 + start + len(part))])
        views = sample_views(denoiser, shown_texts, cameras, generator, guidance_scale=scale)
        right += sum(
            recognize(shown) == canonical(item) for shown, item in zip(views, part, strict=True)
        )
    return right / len(compositions)


def measure_critic(
    model: YesNoModel, n_scenes: int = 160, held_out: bool | None = False
) -> dict[str, float]:
    """Return the balanced accuracy of each kind of question over four views of new scenes.

    Balanced: the mean of how often Yes is said where it is right, and No where No is right. For hard negatives (a kind
    of wrong statement) the Yes side is that of the same form of question.
    """
    hits: dict[tuple[str, bool], list[bool]] = {}
    for step in range(n_scenes // 8):
        batch = sample_critic_batch(
            step_rng(TEST_SEED, 2 + step), 8, 9, held_out=held_out, n_views=N_VIEWS
        )
        for images, examples in zip(batch.images, batch.examples, strict=True):
            with torch.inference_mode():
                odds = model.log_odds(images, VIEW_NAMES, [example.text for example in examples])
            for example, value in zip(examples, odds.tolist(), strict=True):
                hits.setdefault((example.kind, example.answer), []).append(
                    (value > 0) == example.answer
                )
    yes = [
        hit
        for (kind, answer), values in hits.items()
        if answer and kind not in ("geometry", "joint")
        for hit in values
    ]
    sides = {kind: hits[(kind, True)] for kind in ("geometry", "joint")}
    result = {"yes": float(np.mean(yes))}
    for (kind, answer), values in sorted(hits.items()):
        if not answer:
            result[kind] = 0.5 * float(np.mean(sides.get(kind, yes))) + 0.5 * float(np.mean(values))
    return result


def main(
    what: Annotated[str, typer.Option(help="codec, prior or critic")],
    weights: Annotated[
        Path | None, typer.Option(help="folder with prior/ and critic/; default: embedded")
    ] = None,
) -> None:
    """Print a measurement as JSON."""
    device = torch.device("cpu")
    result: Any
    if what == "critic":
        model = YesNoModel(weights / "critic" if weights else embedded_weights("critic"), device)
        result = {
            name: measure_critic(model, held_out=flag)
            for name, flag in (("seen", False), ("held out", True))
        }
    else:
        folder = weights / "prior" if weights else embedded_weights("prior")
        result = (
            measure_codec(load_denoiser(folder, device))
            if what == "codec"
            else measure_prior(folder)
        )
    typer.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    typer.run(main)

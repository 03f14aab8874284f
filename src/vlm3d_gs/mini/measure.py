"""Accuracy of the embedded models: `python -m vlm3d_gs.mini.measure --what codec|prior|critic`.

Test scenes come from a seed that training never uses; held-out combinations are those of `world.scenes.is_held_out`.
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
from vlm3d_gs.prior.denoiser import decode_latents, encode_images
from vlm3d_gs.prior.loading.pipeline import load_denoiser
from vlm3d_gs.prior.loading.text import embed_texts
from vlm3d_gs.prior.sampling import sample_views
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

TEST_SEED = 987_654_321
PROMPTS_PER_BATCH = 8


def measure_codec(denoiser: TorchDenoiser, n_scenes: int = 64) -> dict[str, float]:
    """Return the PSNR in dB of encoding and decoding images of new scenes."""
    color = sample_batch(step_rng(TEST_SEED, 0), n_scenes, held_out=None).color.flatten(0, 1)
    with torch.inference_mode():
        error = (decode_latents(denoiser, encode_images(denoiser, color)) - color).square().mean()
    return {"psnr_db": float(-10.0 * torch.log10(error))}


def measure_prior(folder: Path, n_two: int = 48, guidance_scale: float = 5.0) -> dict[str, float]:
    """Return the fraction of 30-step samples whose views show exactly the prompt; `folder` is the pipeline's."""
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
        batch = compositions[start : start + PROMPTS_PER_BATCH]
        rows = texts.rows([0, *range(1 + start, 1 + start + len(batch))])
        samples = sample_views(denoiser, rows, cameras, generator, guidance_scale=scale)
        right += sum(
            recognize(views) == canonical(composition)
            for views, composition in zip(samples, batch, strict=True)
        )

    return right / len(compositions)


def measure_critic(
    model: YesNoModel, n_scenes: int = 160, held_out: bool | None = False
) -> dict[str, float]:
    """Return the balanced accuracy of each kind of question, over four views of new scenes.

    Balanced: the mean of the true positive rate and the true negative rate. The positives of a kind of wrong statement
    are all right statements; those of geometry and joint questions are their own.
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

    own_positives = ("geometry", "joint")
    yes = [
        hit
        for (kind, answer), values in hits.items()
        if answer and kind not in own_positives
        for hit in values
    ]
    positives = {kind: hits[(kind, True)] for kind in own_positives}

    result = {"yes": float(np.mean(yes))}
    for (kind, answer), values in sorted(hits.items()):
        if not answer:
            true_positive_rate = float(np.mean(positives.get(kind, yes)))
            result[kind] = 0.5 * true_positive_rate + 0.5 * float(np.mean(values))

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

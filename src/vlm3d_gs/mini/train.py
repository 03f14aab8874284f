"""Train the embedded models: `python -m vlm3d_gs.mini.train --what vae|prior|critic --out DIR`.

Order: `vae` prepares the codec's encoder and trains its decoder; `prior` needs only the encoder, so the two can run
side by side; `critic` needs neither. Each resumes from its last checkpoint. Without one, `--warm-start` with the
package's weights folder continues from the published weights. `python -m vlm3d_gs.mini.publish` writes the current
averaged weights to that folder.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderTiny
from rich.console import Console

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.mini.critic.train import PLAN as CRITIC_PLAN
from vlm3d_gs.mini.critic.train import train_critic
from vlm3d_gs.mini.prior.train import PLAN as PRIOR_PLAN
from vlm3d_gs.mini.prior.train import train_prior
from vlm3d_gs.mini.prior.train_vae import PLAN as VAE_PLAN
from vlm3d_gs.mini.prior.train_vae import prepared_codec, train_vae
from vlm3d_gs.mini.training import TrainingPlan


def load_codec(out: Path, seed: int, warm_start: Path | None) -> AutoencoderTiny:
    """Load the codec of a training folder; the first time, prepare it or copy it from a pipeline folder."""
    folder = out / "codec"
    if not folder.exists():
        codec = (
            AutoencoderTiny.from_pretrained(warm_start / "vae")
            if warm_start
            else prepared_codec(seed)
        )
        codec.save_pretrained(folder)
    return AutoencoderTiny.from_pretrained(folder)


def main(
    what: Annotated[str, typer.Option(help="vae, prior or critic")],
    out: Annotated[Path, typer.Option(help="folder of checkpoints")],
    steps: Annotated[int, typer.Option(help="total steps; 0: as in the model's plan")] = 0,
    seed: Annotated[int, typer.Option(help="seed of weights and data")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: as chosen by torch")] = 0,
    scenes: Annotated[int, typer.Option(help="scenes per step; 0: as in the model's plan")] = 0,
    lr: Annotated[float, typer.Option(help="peak learning rate; 0: as in the model's plan")] = 0.0,
    minutes: Annotated[
        float,
        typer.Option(help="time limit; the learning rate decays towards it; 0: none"),
    ] = 0.0,
    workers: Annotated[
        int, typer.Option(help="processes that draw scenes; 0: none but this one")
    ] = 0,
    warm_start: Annotated[
        Path | None, typer.Option(help="initial weights: folder with prior/ and critic/")
    ] = None,
) -> None:
    """Train one of the embedded models."""
    if threads:
        torch.set_num_threads(threads)

    console = Console()

    def log(line: str) -> None:
        console.print(f"{what} {line}", highlight=False, soft_wrap=True)

    def plan(default: TrainingPlan) -> TrainingPlan:
        return replace(
            default,
            steps=steps or default.steps,
            scenes_per_step=scenes or default.scenes_per_step,
            lr=lr or default.lr,
            limit_s=60.0 * minutes or math.inf,
            workers=workers,
        )

    prior = warm_start / "prior" if warm_start else None
    if what == "vae":
        train_vae(out / "vae", device, seed, log, load_codec(out, seed, prior), plan(VAE_PLAN))
    elif what == "prior":
        codec = load_codec(out, seed, prior)
        train_prior(out / "prior", device, seed, log, codec, plan(PRIOR_PLAN), prior)
    elif what == "critic":
        critic = warm_start / "critic" if warm_start else None
        train_critic(out / "critic", device, seed, log, plan(CRITIC_PLAN), critic)
    else:
        raise ConfigError(f"--what must be vae, prior or critic, got {what!r}.")


if __name__ == "__main__":
    typer.run(main)

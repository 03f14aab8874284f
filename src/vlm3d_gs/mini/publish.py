"""Write trained models into folders in the published layouts: `python -m vlm3d_gs.mini.publish --out DIR`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from diffusers import AutoencoderTiny
from torch import nn

from vlm3d_gs.core.errors import CheckpointError
from vlm3d_gs.mini.critic.model import new_critic, save_processor
from vlm3d_gs.mini.prior.train import new_prior
from vlm3d_gs.mini.training import load_averaged
from vlm3d_gs.prior.export import export_prior

WEIGHTS = Path(__file__).parent / "weights"


def publish_prior(out: Path, target: Path) -> None:
    """Save the diffusion pipeline, half precision, from the averaged weights of a training folder, and its graphs."""
    prior = new_prior(0)
    codec = AutoencoderTiny.from_pretrained(out / "codec")
    _load({"unet": prior.unet, "text_encoder": prior.text_encoder}, out / "prior")
    load_averaged(
        {"vae": codec}, out / "vae"
    )  # none after a warm start: the codec is trained already

    prior.unet.half().save_pretrained(target / "unet")
    prior.text_encoder.half().save_pretrained(target / "text_encoder")
    codec.save_pretrained(target / "vae")
    for name in ("block_out_channels", "_name_or_path"):
        drop_setting(target / "vae/config.json", name)
    prior.tokenizer.save_pretrained(target / "tokenizer")
    prior.scheduler.save_pretrained(target / "scheduler")

    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    export_prior(target, free_batch=True)


def publish_critic(out: Path, target: Path) -> None:
    """Save the critic, half precision, with tokenizer and processor settings."""
    model, tokenizer = new_critic(0)
    _load({"critic": model}, out / "critic")
    model.half().save_pretrained(target)
    save_processor(target, tokenizer)


def drop_setting(path: Path, name: str) -> None:
    """Remove a setting that diffusers writes of itself: a derived one, or the folder of the machine it came from."""
    settings = json.loads(path.read_text())
    settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2) + "\n")


def _load(modules: dict[str, nn.Module], folder: Path) -> None:
    if not load_averaged(modules, folder):
        raise CheckpointError(
            f"No checkpoint under {folder}. Train first: python -m vlm3d_gs.mini.train --help"
        )


def main(
    out: Annotated[Path, typer.Option(help="folder of training checkpoints")],
    target: Annotated[Path, typer.Option(help="output folder for prior/ and critic/")] = WEIGHTS,
    what: Annotated[str, typer.Option(help="prior, critic or both")] = "both",
) -> None:
    """Write the embedded models."""
    if what in ("prior", "both"):
        publish_prior(out, target / "prior")
    if what in ("critic", "both"):
        publish_critic(out, target / "critic")


if __name__ == "__main__":
    typer.run(main)

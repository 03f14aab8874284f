"""Diffusion priors from their settings: networks loaded once, and conditioned on one prompt or on several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vlm3d_gs.assembly.kept import folder_state, kept
from vlm3d_gs.assembly.runtime import joint_views, uses_graphs
from vlm3d_gs.config import CameraConfig, PriorConfig
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.recording import cuda_recorder
from vlm3d_gs.core.residency import Plan
from vlm3d_gs.prior.denoiser import Denoiser
from vlm3d_gs.prior.elsewhere import DenoiserElsewhere
from vlm3d_gs.prior.losses import loss_named
from vlm3d_gs.runtime.manifest import read_manifest
from vlm3d_gs.spread.networks import divided_denoiser

if TYPE_CHECKING:
    from vlm3d_gs.prior.guidance import DiffusionPrior
    from vlm3d_gs.prior.torch_denoiser import TorchDenoiser


def build_prior(
    name: str,
    prompt: str,
    settings: PriorConfig,
    folder: Path,
    device: torch.device,
    noise: torch.Generator,
    *,
    text_cache: Path | None = None,
    plan: Plan = "full",
    camera: CameraConfig | None = None,
) -> DiffusionPrior:
    """Load one diffusion prior for a prompt; `noise` is the stream of its timesteps and noises, the rest as below."""
    (prior,) = build_priors(
        name,
        [(prompt, noise)],
        settings,
        folder,
        device,
        text_cache=text_cache,
        plan=plan,
        camera=camera,
    )
    return prior


def build_priors(
    name: str,
    works: Sequence[tuple[str, torch.Generator]],
    settings: PriorConfig,
    folder: Path,
    device: torch.device,
    *,
    text_cache: Path | None = None,
    plan: Plan = "full",
    camera: CameraConfig | None = None,
    scene: torch.device | None = None,
) -> list[DiffusionPrior]:
    """Load one diffusion prior, and condition it on each of several prompts.

    Args:
        name: of the guidance, prefix of its scalars in the log.
        works: what a scene should show, and the random stream of its timesteps and noises; latents drawn from the
            encoder's distribution are drawn from the first one's.
        settings: of this prior.
        folder: its weights.
        device: where its networks run.
        text_cache: folder for embedded prompts; None caches nothing.
        plan: how the networks share the device. A network with a LoRA stays there under any plan, since its
            gradients are needed after the prediction.
        camera: of the run, to know whether exported graphs fit its views; None uses torch.
        scene: device of the renders, if it is another.

    Raises:
        ConfigError: `prior.runtime` is onnx, and the graphs are absent or do not fit; or the loss trains a network, and
            there are several prompts or two devices; the message says why.
    """
    from vlm3d_gs.prior.conditioning import prompt_texts
    from vlm3d_gs.prior.guidance import DiffusionPrior

    prompts = [prompt_texts(prompt, settings) for prompt, _ in works]
    flat, count = [text for texts in prompts for text in texts], len(prompts[0])
    rows = [range(row * count, (row + 1) * count) for row in range(len(works))]

    if camera is not None and uses_graphs(settings, folder, device, plan, camera):
        from vlm3d_gs.prior.graph_denoiser import GraphDenoiser, TextGraph

        n_views = joint_views(settings, camera)
        state = (folder_state(folder), torch.get_num_threads())
        graphs = kept(
            ("graphs", name, n_views, state), lambda: GraphDenoiser(read_manifest(folder), n_views)
        )
        texts = kept(("text graph", state), lambda: TextGraph(folder)).embed(flat)
        shared = _shared(scene, graphs)
        return [
            DiffusionPrior(name, shared, texts.rows(own), settings, noise)
            for own, (_, noise) in zip(rows, works, strict=True)
        ]

    from vlm3d_gs.prior.loading.text import embed_texts

    trains_lora = loss_named(settings.loss).trains_lora
    if trains_lora and len(works) > 1:
        raise ConfigError(
            f"prior.loss={settings.loss} trains a network for one prompt, but the {len(works)} different objects of "
            "this scene share one. Choose another loss, or make them one by one."
        )
    if trains_lora and scene not in (None, device):
        raise _two_devices(settings, device, scene)
    texts, noise = embed_texts(folder, flat, device, cache=text_cache), works[0][1]
    denoiser = _torch_denoiser(settings, folder, device, noise, "full" if trains_lora else plan)

    adapter = None
    if trains_lora:
        from vlm3d_gs.prior.lora import ScoreAdapter

        adapter = ScoreAdapter(
            denoiser, rank=settings.lora_rank, lr=settings.lora_lr, seed=noise.initial_seed()
        )
    # What trains, or draws by itself, does so in every process, with the same numbers.
    shared = _shared(scene, denoiser, alone=trains_lora or settings.sample_latents)
    texts = texts.to(shared.device)
    return [
        DiffusionPrior(name, shared, texts.rows(own), settings, noise, adapter)
        for own, (_, noise) in zip(rows, works, strict=True)
    ]


def _two_devices(
    settings: PriorConfig, device: torch.device, scene: torch.device | None
) -> ConfigError:
    return ConfigError(
        f"prior.loss={settings.loss} trains a network beside the scene, which is on {scene}, but devices.prior is "
        f"{device}. Set devices.prior=auto, or choose another loss."
    )


def _shared(scene: torch.device | None, denoiser: Denoiser, *, alone: bool = False) -> Denoiser:
    """Return a denoiser for renders on a device, its work divided among the processes of the run unless `alone`."""
    if scene is not None and scene != denoiser.device:
        denoiser = DenoiserElsewhere(denoiser, scene)
    return denoiser if alone else divided_denoiser(denoiser)


def _torch_denoiser(
    settings: PriorConfig, folder: Path, device: torch.device, noise: torch.Generator, plan: Plan
) -> TorchDenoiser:
    """Load a prior's networks by torch, as its settings ask for them."""
    from vlm3d_gs.prior.loading.pipeline import load_denoiser, load_tiny_vae
    from vlm3d_gs.prior.torch_denoiser import sampling_latents

    trains_lora = loss_named(settings.loss).trains_lora
    # Networks that a run changes are its own; others may have been kept by an earlier one.
    changed = trains_lora or settings.compile or settings.channels_last
    key = ("denoiser", folder_state(folder), str(device), plan)
    if changed:
        denoiser = load_denoiser(folder, device, plan=plan)
    else:
        denoiser = kept(key, lambda: load_denoiser(folder, device, plan=plan))
    if settings.tiny_vae is not None:
        denoiser = replace(denoiser, vae=load_tiny_vae(Path(settings.tiny_vae), denoiser))
    if settings.sample_latents:
        denoiser = sampling_latents(denoiser, noise)
    if settings.channels_last:
        for network in (denoiser.network, denoiser.vae):
            network.to(memory_format=torch.channels_last)
    if settings.compile:
        denoiser.network.compile()
    if settings.graphs and plan == "full" and not trains_lora and not settings.compile:
        denoiser = replace(denoiser, recorder=cuda_recorder(device))
    return denoiser

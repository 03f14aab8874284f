"""What a run will need of a GPU, said before it starts, and which of its models share it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from vlm3d_gs.assembly.memory import (
    CriticWork,
    MemoryEstimate,
    choose_plan,
    count_parameters,
    critic_work,
    describe,
    estimate,
)
from vlm3d_gs.assembly.objective import can_rank
from vlm3d_gs.config import Config, PriorConfig
from vlm3d_gs.core.residency import Plan
from vlm3d_gs.models import family_entry

LORA_VALUES_A_RANK = 230_400
"""Values of a LoRA of rank 1 on the attention of Stable Diffusion's UNet: 32 layers of four matrices."""
TEXT_TOKENS = 100
"""Of the message around the views."""
QUESTION_TOKENS = 40
"""Of one question; a guess, the joint one is longer."""
NEGATIVE_VIEWS = 2
"""Perp-Neg pushes away from the front and the side at most."""


def plan_memory(
    config: Config, folders: dict[str, Path], device: torch.device
) -> tuple[Plan, list[str]]:
    """Choose how the models of a run share the GPU.

    Args:
        config: the run; `memory` other than auto is taken as it is.
        folders: weights of each model, as `pipeline.model_folders` gives them.
        device: where the networks will run; only a CUDA device can be too small.

    Returns:
        The plan, and sentences for the user; none for the embedded models, which fit anywhere.

    Raises:
        DeviceError: the run does not fit even when its models take turns.
    """
    if not large_priors(config) and not has_large_critic(config):
        return "full", []
    parts = estimate_run(config, folders)
    said = [describe(parts)]
    if config.memory != "auto":
        return config.memory, said
    if device.type != "cuda":
        return "full", said
    free_bytes, _ = torch.cuda.mem_get_info(device)
    plan = choose_plan(parts, free_bytes / 2**20)
    return plan.kind, [*said, plan.reason]


def large_priors(config: Config) -> dict[str, PriorConfig]:
    """Return the run's priors that are not embedded, by name."""
    priors = {"prior": config.prior, "detail": config.detail}
    return {
        name: prior
        for name, prior in priors.items()
        if prior.enabled and not family_entry("prior", prior.family).embedded
    }


def has_large_critic(config: Config) -> bool:
    """Return whether the run loads a critic that is not embedded."""
    critic = config.critic
    if not critic.enabled or critic.family == "server":
        return False
    return not family_entry("critic", critic.family).embedded


def estimate_run(config: Config, folders: dict[str, Path]) -> MemoryEstimate:
    """Estimate a run with large models from the headers of its weight files."""
    priors = large_priors(config)
    parameters = {
        f"{name}.{part.name}": count_parameters(part)
        for name in priors
        for part in sorted(folders[name].iterdir())
        if part.is_dir() and part.name != "safety_checker" and any(part.glob("*.safetensors"))
    }
    for name, prior in priors.items():
        if prior.loss == "vsd":
            parameters[f"{name}.lora"] = prior.lora_rank * LORA_VALUES_A_RANK
    for name in ("critic", "judge"):
        if name in folders and has_large_critic(config):
            parameters[f"{name}.critic"] = count_parameters(folders[name])
    networks = [key for key in parameters if key.endswith((".unet", ".transformer"))]
    largest = (
        priors[max(networks, key=parameters.__getitem__).partition(".")[0]]
        if networks
        else config.prior
    )
    side = max(
        prior.size_px or round(config.camera.resolution_px.high)
        for prior in (*priors.values(), config.prior)
    )
    return estimate(
        largest.family,
        parameters,
        config.camera.n_groups * config.camera.n_views,
        side,
        vae_dtype_bytes=4 if any(map(_encodes_in_float32, priors.values())) else 2,
        branches=(2 + NEGATIVE_VIEWS if largest.perp_neg else 2) * noises_at_once(config),
        gaussians=config.scene.max_gaussians,
        critic=_critic_work(config, folders) if has_large_critic(config) else None,
    )


def noises_at_once(config: Config) -> int:
    """Return how many noises a prior is asked about in one batch, for a critic to compare what they lead to."""
    critic = config.critic
    if not critic.enabled or critic.mode == "gradient" or not can_rank(config):
        return 1
    return 2 if critic.mode == "pairwise" else critic.n_noises


def _encodes_in_float32(prior: PriorConfig) -> bool:
    """Tell whether a prior's VAE runs in float32 on a GPU (`guidance.loading.vae_dtype`), taken from its family.

    If one of a run does, all are counted so.
    """
    return prior.family == "sdxl" or prior.tiny_vae is not None


def _critic_work(config: Config, folders: dict[str, Path]) -> CriticWork:
    sizes = json.loads((folders["critic"] / "config.json").read_text())
    side = config.critic.size_px or config.camera.resolution_px
    pictures = config.camera.n_groups * config.camera.n_views
    text = TEXT_TOKENS + QUESTION_TOKENS * config.critic.questions.most
    return critic_work(sizes, pictures, round(side.high), text)

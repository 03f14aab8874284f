"""How much GPU memory a run will need, estimated before it starts, and how its models share the GPU."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from vlm3d_gs.assembly.device import Places, places
from vlm3d_gs.assembly.memory import (
    CriticWork,
    MemoryEstimate,
    choose_plan,
    count_parameters,
    critic_work,
    describe,
    estimate,
    part_of,
)
from vlm3d_gs.assembly.objective import can_rank
from vlm3d_gs.assembly.weights import has_large_critic, large_priors
from vlm3d_gs.config import CameraConfig, Config, CriticConfig, PriorConfig
from vlm3d_gs.core.errors import DeviceError
from vlm3d_gs.core.residency import PLANS, Plan
from vlm3d_gs.prior.losses import loss_named

LORA_VALUES_A_RANK = 230_400
"""Values of a LoRA of rank 1 on the attention of Stable Diffusion's UNet: 32 layers of four matrices."""
TEXT_TOKENS = 100
"""Tokens of the message around the views."""
QUESTION_TOKENS = 40
"""Tokens of one question; a guess, the joint one is longer."""
NEGATIVE_VIEWS = 2
"""Largest number of negative prompts of Perp-Neg: front and side."""


def plan_memory(
    config: Config, folders: dict[str, Path], device: torch.device, *, objects: int = 1
) -> tuple[Plan, list[str]]:
    """Choose how the models of a run share the GPU.

    Args:
        config: the run; `memory` other than auto is taken as it is.
        folders: weights of each model, as `weights.locate_models` returns them.
        device: of the run; networks may be elsewhere, and only a CUDA device can be too small.
        objects: of a scene, that are made side by side.

    Returns:
        The plan, and notes for the user; none for the embedded models, which fit anywhere.

    Raises:
        DeviceError: the run does not fit even when its models take turns.
    """
    if not large_priors(config.priors) and not has_large_critic(config.critic):
        return "full", []

    memory = estimate_run(config, folders, objects=objects)
    notes = [describe(memory)]
    if config.memory != "auto":
        return config.memory, notes

    # Each card is asked for its own parts; the most frugal plan that one of them needs is that of all.
    kinds: list[Plan] = ["full"]
    parts = shares_of_memory(memory, places(config, device))
    for card, part in parts.items():
        free_bytes, _ = torch.cuda.mem_get_info(card)
        try:
            plan = choose_plan(part, free_bytes / 2**20)
        except DeviceError as error:
            raise DeviceError(f"{card}: {error}" if len(parts) > 1 else str(error)) from None
        kinds.append(plan.kind)
        notes.append(f"{card}: {plan.reason}" if len(parts) > 1 else plan.reason)
    return max(kinds, key=PLANS.index), notes


def shares_of_memory(memory: MemoryEstimate, placed: Places) -> dict[torch.device, MemoryEstimate]:
    """Return what each card of a run must hold; devices that are no cards are left out."""
    return {
        device: part_of(
            memory,
            scene=device == placed.scene,
            prior=device == placed.prior,
            critic=device == placed.critic,
        )
        for device in placed.all
        if device.type == "cuda"
    }


def estimate_run(config: Config, folders: dict[str, Path], *, objects: int = 1) -> MemoryEstimate:
    """Estimate a run with large models from the headers of its weight files.

    Args:
        config: the run.
        folders: weights of each model.
        objects: of a scene: each has Gaussians of its own, and pictures of several are drawn in one batch.
    """
    parameters = _prior_parameters(large_priors(config.priors), folders)
    critic = None
    if has_large_critic(config.critic):
        critic = _critic_work(config.critic, config.camera, folders["critic"])
        for name in ("critic", "judge"):
            if name in folders:
                parameters[f"{name}.critic"] = count_parameters(folders[name])
    return estimate_parameters(config, parameters, critic, objects=objects)


def estimate_parameters(
    config: Config, parameters: dict[str, int], critic: CriticWork | None, *, objects: int = 1
) -> MemoryEstimate:
    """Estimate a run with large models.

    Args:
        config: the run.
        parameters: number of parameters by component, as `memory.estimate` takes them.
        critic: its work; None without a large critic.
        objects: as in `estimate_run`.
    """
    priors, camera = large_priors(config.priors), config.camera

    # Two priors take turns, so the larger network decides.
    networks = [key for key in parameters if key.endswith((".unet", ".transformer"))]
    largest = config.prior
    if networks:
        largest = priors[max(networks, key=parameters.__getitem__).partition(".")[0]]
    branches = 2 + NEGATIVE_VIEWS if largest.perp_neg else 2
    side_px = max(
        prior.size_px or round(camera.resolution_px.high)
        for prior in (*priors.values(), config.prior)
    )

    return estimate(
        largest.family,
        parameters,
        round(camera.n_groups.high) * camera.n_views,
        side_px,
        vae_dtype_bytes=4 if any(map(_encodes_in_float32, priors.values())) else 2,
        branches=branches * batches_at_once(config, objects),
        gaussians=config.scene.max_gaussians * objects,
        critic=critic,
    )


def batches_at_once(config: Config, objects: int = 1) -> int:
    """Return how many times the pictures of a step the prior's network sees in one batch, per branch.

    Args:
        config: the run.
        objects: of a scene; where the critic chooses among the pictures of each, they are drawn one after the other.
    """
    critic, rounds = config.critic, config.reconstruct
    if config.train.loop == "distill":
        return noises_at_once(critic, config.prior)

    # The first group of a round has candidates, if the critic chooses; the other groups are drawn beside it.
    chooses = critic.enabled and critic.mode != "gradient"
    candidates = round(rounds.candidates.high) if chooses else 1
    groups = candidates + round(rounds.n_groups.high) - 1
    if candidates == 1:
        groups *= min(objects, rounds.together)
    return max(1, math.ceil(groups / round(config.camera.n_groups.high)))


def noises_at_once(critic: CriticConfig, prior: PriorConfig) -> int:
    """Return how many noises the prior predicts from in one batch, for the critic to compare the outcomes."""
    if not critic.enabled or critic.mode == "gradient" or not can_rank(prior):
        return 1
    return 2 if critic.mode == "pairwise" else critic.n_noises


def _prior_parameters(priors: dict[str, PriorConfig], folders: dict[str, Path]) -> dict[str, int]:
    """Return the number of parameters of each component, by names such as `prior.unet`."""
    parameters = {
        f"{name}.{component.name}": count_parameters(component)
        for name in priors
        for component in sorted(folders[name].iterdir())
        if component.is_dir() and component.name != "safety_checker"
        if any(component.glob("*.safetensors"))
    }
    for name, prior in priors.items():
        if loss_named(prior.loss).trains_lora:
            parameters[f"{name}.lora"] = prior.lora_rank * LORA_VALUES_A_RANK
    return parameters


def _encodes_in_float32(prior: PriorConfig) -> bool:
    """Return whether a prior's VAE runs in float32 on a GPU; a guess by its family, since nothing is loaded yet."""
    return prior.family == "sdxl" or prior.tiny_vae is not None


def _critic_work(critic: CriticConfig, camera: CameraConfig, folder: Path) -> CriticWork:
    sizes = json.loads((folder / "config.json").read_text())
    views = round(camera.n_groups.high) * camera.n_views
    return critic_work(sizes, views, critic_side_px(critic, camera), critic_text_tokens(critic))


def critic_side_px(critic: CriticConfig, camera: CameraConfig) -> int:
    """Return the largest side of the views that a critic sees."""
    return round((critic.size_px or camera.resolution_px).high)


def critic_text_tokens(critic: CriticConfig) -> int:
    """Return how many tokens a critic's messages and questions have, roughly."""
    return TEXT_TOKENS + QUESTION_TOKENS * critic.questions.most

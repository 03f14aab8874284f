"""The critic's model and its questions, from the settings of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vlm3d_gs.assembly.device import choose_device
from vlm3d_gs.assembly.kept import folder_state, kept
from vlm3d_gs.assembly.weights import locate_models, text_cache
from vlm3d_gs.config import Config, CriticConfig
from vlm3d_gs.core.precision import fast_dtype
from vlm3d_gs.core.prompts import Prompt, parse_prompt
from vlm3d_gs.core.residency import Plan, resident
from vlm3d_gs.critic.questions.checklist import cached_generator, prompt_questions
from vlm3d_gs.critic.questions.templates import Question
from vlm3d_gs.models import family_entry

LAYOUT_TOKENS = 2048
"""Longest answer of a critic that writes a layout."""

if TYPE_CHECKING:
    from vlm3d_gs.critic.qwen.yes_no import YesNoModel


def build_vlm(
    critic: CriticConfig, folder: Path, device: torch.device, plan: Plan = "full"
) -> YesNoModel:
    """Load the vision-language model that answers.

    The paper's recipe (`critic.questions.checks` joint) counts the words "Yes" and "No" only.

    Args:
        critic: settings.
        folder: of the weights.
        device: where it runs.
        plan: how the networks share the device; quantised weights stay there under any plan.
    """
    from vlm3d_gs.critic.qwen.yes_no import YesNoModel

    # On a GPU the arithmetic of the embedded critic costs nothing, so it may as well be exact.
    fast = fast_dtype(device) == torch.bfloat16
    tiny = family_entry("critic", critic.family).embedded and device.type == "cuda"
    recordable = plan == "full" and critic.quantize == "none" and not critic.checkpointing
    half = critic.precision == "bfloat16" or (critic.precision == "auto" and fast and not tiny)

    key = ("critic", folder_state(folder), str(device), plan, half, recordable, critic.runtime)
    settings = (critic.quantize, critic.checkpointing, critic.layout, critic.graphs)
    pooled = critic.questions.checks != "joint"

    def load() -> YesNoModel:
        return YesNoModel(
            folder,
            device,
            torch.bfloat16 if half else torch.float32,
            runtime=critic.runtime,
            quantize=critic.quantize,
            checkpointing=critic.checkpointing,
            layout=critic.layout,
            pooled=pooled,
            graphs=critic.graphs and device.type == "cuda" and recordable,
            resident=plan == "full" or critic.quantize != "none",
        )

    model = kept((*key, *settings, pooled), load)
    model.forget_questions()
    return model


def build_questions(
    critic: CriticConfig,
    prompt: Prompt,
    model: YesNoModel | None = None,
    name: str = "",
    cache: Path | None = None,
) -> tuple[Question, ...]:
    """Return the questions to the critic.

    Args:
        critic: settings, those of the questions among them.
        prompt: what the scene should show.
        model: the critic, to list checks itself with `checks="model"`; else not used.
        name: of the model, for the cache.
        cache: folder of its earlier answers, None for none.
    """
    if model is None or critic.questions.checks != "model":
        return prompt_questions(prompt, critic.questions)

    def generate_text(request: str) -> str:
        if critic.quantize != "none":
            return model.generate_text(request)
        with resident(model.network, model.device):
            return model.generate_text(request)

    generator = cached_generator(generate_text, name, cache)
    return prompt_questions(prompt, critic.questions, generator)


def text_writer(config: Config) -> Callable[[str], str]:
    """Return the run's critic as a writer of text, with its answers cached; loads it."""
    critic = config.critic
    unwatched = replace(critic, watch=replace(critic.watch, enabled=False))
    folder = locate_models({}, unwatched, offline=config.offline)["critic"]
    model = build_vlm(critic, folder, choose_device(config.device))

    def write(request: str) -> str:
        if critic.quantize != "none":
            return model.generate_text(request, LAYOUT_TOKENS)
        with resident(model.network, model.device):
            return model.generate_text(request, LAYOUT_TOKENS)

    return cached_generator(write, str(folder), text_cache(config.priors, critic))


def questions_for(config: Config) -> tuple[Question, ...]:
    """Return the questions that a run would ask; loads the critic only if it lists checks itself."""
    prompt, critic = parse_prompt(config.prompt), config.critic
    if critic.questions.checks != "model":
        return build_questions(critic, prompt)

    unwatched = replace(critic, watch=replace(critic.watch, enabled=False))
    folder = locate_models({}, unwatched, offline=config.offline)["critic"]
    model = build_vlm(critic, folder, choose_device(config.device))
    return build_questions(critic, prompt, model, str(folder), text_cache(config.priors, critic))

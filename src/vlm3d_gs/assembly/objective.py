"""What we optimise for: priors and critics behind one protocol, and the targets that they draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.residency import resident
from vlm3d_gs.models import family_entry

if TYPE_CHECKING:
    import torch

    from vlm3d_gs.config import Config, CriticConfig, PriorConfig
    from vlm3d_gs.core.prompts import Prompt
    from vlm3d_gs.core.residency import Plan
    from vlm3d_gs.critic.best_of_n import Scorer
    from vlm3d_gs.critic.judge import Judge
    from vlm3d_gs.critic.questions.templates import Question
    from vlm3d_gs.critic.qwen.yes_no import YesNoModel
    from vlm3d_gs.optimize.guidance import Guidance
    from vlm3d_gs.optimize.reconstruct import Reconstruction
    from vlm3d_gs.prior.guidance import DiffusionPrior


@dataclass(frozen=True)
class Objective:
    """Everything that a run is optimised for, and what watches over it."""

    guidances: list[Guidance]
    """Asked in order at each step."""
    questions: tuple[Question, ...] = ()
    """What the critic is asked; empty without one."""
    own: Judge | None = None
    """The critic's own questions, to read a scene without gradient."""
    held_out: Judge | None = None
    """Other questions, or another model; None where nothing is watched."""
    reconstruction: Reconstruction | None = None
    """What the scene is fitted to before it is distilled; None where a run distils from the start."""


def build_objective(
    config: Config,
    prompt: Prompt,
    folders: dict[str, Path],
    device: torch.device,
    streams: dict[str, torch.Generator],
    *,
    text_cache: Path | None = None,
    plan: Plan = "full",
) -> Objective:
    """Return the guidances of a run, its priors and its critic, and the judge of the critic.

    Args:
        config: the run.
        prompt: what the scene should show.
        folders: weights of each model that the run uses: `prior`, `detail`, `critic`, `judge`.
        device: where the networks run.
        streams: `noise` for the priors, `critic` for the augmentation.
        text_cache: folder where embedded prompts and listed questions of large models are kept, None for none.
        plan: how the networks share the device.

    Raises:
        ConfigError: an unknown family, nothing to optimise for, or as `check_choice`.
    """
    check_choice(config)
    critic = config.critic
    settings = {"prior": config.prior, "detail": config.detail}
    priors = {
        name: build_prior(
            name,
            prompt.text,
            settings[name],
            folders[name],
            device,
            streams["noise"],
            text_cache=text_cache,
            plan=plan,
        )
        for name in settings
        if name in folders
    }

    if critic.enabled and critic.family == "server":
        from vlm3d_gs.critic.server import ServerScorer

        questions = build_questions(critic, prompt)
        scorer = ServerScorer(critic.server, questions)
        reconstruction = _reconstruction(config, priors, scorer)
        return Objective(_ranked(priors, scorer, config), questions, reconstruction=reconstruction)

    if "critic" in folders:
        return _with_critic(config, prompt, priors, folders, device, streams, text_cache, plan)

    if not priors:
        raise ConfigError(
            "Nothing says how the scene should look: prior, detail and critic are all off. "
            "Set prior.enabled=true."
        )
    return Objective(list(priors.values()), reconstruction=_reconstruction(config, priors))


def _with_critic(
    config: Config,
    prompt: Prompt,
    priors: dict[str, DiffusionPrior],
    folders: dict[str, Path],
    device: torch.device,
    streams: dict[str, torch.Generator],
    text_cache: Path | None,
    plan: Plan,
) -> Objective:
    """Return the objective of a run whose critic has weights; arguments as in `build_objective`."""
    from vlm3d_gs.critic.guidance import Critic
    from vlm3d_gs.critic.judge import Judge
    from vlm3d_gs.critic.questions.checklist import held_out_questions

    critic = config.critic
    offload = plan != "full" and critic.quantize == "none"  # quantised weights cannot move
    model = build_vlm(critic, folders["critic"], device, plan)
    questions = build_questions(critic, prompt, model, str(folders["critic"]), text_cache)
    own = Judge(model, questions, size_px=model.trained_px, offload=offload)

    # Who watches: another model, or the critic itself asked in other words.
    held_out = None
    if critic.watch.enabled:
        other = model
        if "judge" in folders:
            kind = replace(critic, family=critic.watch.family or critic.family)
            other = build_vlm(kind, folders["judge"], device, plan)
        held_out = Judge(
            other, held_out_questions(prompt), size_px=other.trained_px, offload=offload
        )

    # How the critic pulls: by choosing, by its gradient, or both.
    guidances: list[Guidance] = list(priors.values())
    if critic.mode in ("best-of-n", "pairwise") or (critic.mode == "both" and can_rank(config)):
        guidances = _ranked(priors, own, config)
    critics: list[Guidance] = []
    if critic.mode in ("gradient", "both"):
        critics = [Critic(model, questions, critic, streams["critic"], offload=offload)]
    scorer = own if critic.mode != "gradient" else None
    reconstruction = _reconstruction(config, priors, scorer, critics)

    return Objective([*guidances, *critics], questions, own, held_out, reconstruction)


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
) -> DiffusionPrior:
    """Return one diffusion prior; arguments as in `build_objective`.

    The network of `vsd` stays on the device under any plan: its gradients outlive a visit.
    """
    import torch

    from vlm3d_gs.prior.guidance import DiffusionPrior
    from vlm3d_gs.prior.loading.pipeline import load_denoiser, load_tiny_vae
    from vlm3d_gs.prior.loading.text import embed_texts
    from vlm3d_gs.prior.view_prompts import view_texts

    asked = [prompt]
    if settings.view_prompts != "off":
        asked = list(view_texts(prompt, debias=settings.debias_prompt))
    texts = embed_texts(folder, [settings.negative_prompt, *asked], device, cache=text_cache)
    resident = settings.loss == "vsd"
    denoiser = load_denoiser(folder, device, plan="full" if resident else plan)
    if settings.tiny_vae is not None:
        denoiser = replace(denoiser, vae=load_tiny_vae(Path(settings.tiny_vae), denoiser))
    if settings.channels_last:
        for network in (denoiser.network, denoiser.vae):
            network.to(memory_format=torch.channels_last)
    if settings.compile:
        denoiser.network.compile()
    adapter = None
    if settings.loss == "vsd":
        from vlm3d_gs.prior.lora import ScoreAdapter

        adapter = ScoreAdapter(
            denoiser, rank=settings.lora_rank, lr=settings.lora_lr, seed=noise.initial_seed()
        )
    return DiffusionPrior(name, denoiser, texts, settings, noise, adapter)


def build_vlm(
    critic: CriticConfig, folder: Path, device: torch.device, plan: Plan = "full"
) -> YesNoModel:
    """Return the model that answers, as the config wants it.

    The paper's recipe (checks `joint`) counts only the words "Yes" and "No".
    """
    import torch

    from vlm3d_gs.critic.qwen.yes_no import YesNoModel
    from vlm3d_gs.prior.denoiser import fast_dtype

    fast = fast_dtype(device) == torch.bfloat16
    # On a GPU the arithmetic of the embedded critic costs nothing, so it may as well be exact.
    small = family_entry("critic", critic.family).embedded and device.type == "cuda"
    halved = critic.precision == "bfloat16" or (critic.precision == "auto" and fast and not small)
    return YesNoModel(
        folder,
        device,
        torch.bfloat16 if halved else torch.float32,
        quantize=critic.quantize,
        checkpointing=critic.checkpointing,
        layout=critic.layout,
        pooled=critic.questions.checks != "joint",
        graphs=critic.graphs,
        resident=plan == "full" or critic.quantize != "none",
    )


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
    from vlm3d_gs.critic.questions.checklist import cached_generator, prompt_questions

    if model is None or critic.questions.checks != "model":
        return prompt_questions(prompt, critic.questions)

    def generate_text(request: str) -> str:
        if critic.quantize != "none":
            return model.generate_text(request)
        with resident(model.network, model.device):
            return model.generate_text(request)

    generator = cached_generator(generate_text, name, cache)
    return prompt_questions(prompt, critic.questions, generator)


def check_choice(config: Config) -> None:
    """Refuse a critic that can only choose among noises beside a prior that cannot offer them; nothing is loaded.

    Raises:
        ConfigError: it is so.
    """
    critic, prior = config.critic, config.prior
    if critic.enabled and critic.mode in ("best-of-n", "pairwise") and not can_rank(config):
        found = f"prior.loss={prior.loss}" if prior.enabled else "prior.enabled=false"
        raise ConfigError(
            f"critic.mode {critic.mode!r} compares noises of the prior, which needs prior.loss recon or sds, "
            f"got {found}. Set prior.loss=sds, or critic.mode=gradient for a critic with weights."
        )


def can_rank(config: Config) -> bool:
    """Tell whether the run's prior can compare noises: it is there, and its loss asks it once a noise."""
    return config.prior.enabled and config.prior.loss in ("recon", "sds")


def _reconstruction(
    config: Config,
    priors: dict[str, DiffusionPrior],
    scorer: Scorer | None = None,
    critics: Sequence[Guidance] = (),
) -> Reconstruction | None:
    """Return what draws a run's targets, and chooses among them; None where the run has no such part."""
    if config.train.loop != "reconstruct" or "prior" not in priors:
        return None

    from vlm3d_gs.critic.targets import CriticTargets
    from vlm3d_gs.optimize.reconstruct import Reconstruction
    from vlm3d_gs.prior.targets import PriorTargets

    settings = config.reconstruct
    targets = PriorTargets(priors["prior"], settings.solver)
    critic = critics[0] if critics else None
    source = CriticTargets(targets, scorer, critic, settings.critic_guidance)
    return Reconstruction(source, critics if settings.critic_gradient else ())


def _ranked(priors: dict[str, DiffusionPrior], scorer: Scorer, config: Config) -> list[Guidance]:
    """Return the priors, the first of which weighs its noises by what the critic says of their outcome."""
    from vlm3d_gs.critic.best_of_n import BestOfN

    critic = config.critic
    until = round(critic.select_until * config.train.steps)
    others: list[Guidance] = [prior for name, prior in priors.items() if name != "prior"]
    return [BestOfN(priors["prior"], scorer, critic, until), *others]

"""What a run optimises: priors and critics behind one protocol (`optimize.guidance`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vlm3d_gs.assembly.critic import build_questions, build_vlm
from vlm3d_gs.assembly.device import places
from vlm3d_gs.assembly.priors import build_priors
from vlm3d_gs.config import Config, CriticConfig, PriorConfig
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.prompts import Prompt
from vlm3d_gs.core.residency import Plan
from vlm3d_gs.critic.questions.checklist import held_out_questions
from vlm3d_gs.critic.questions.templates import Question
from vlm3d_gs.critic.watch import RewardWatch
from vlm3d_gs.optimize.guidance import Guidance
from vlm3d_gs.prior.losses import RANKING_LOSSES, loss_named
from vlm3d_gs.spread.networks import divided_scorer

if TYPE_CHECKING:
    from vlm3d_gs.critic.best_of_n import Scorer
    from vlm3d_gs.critic.judge import Judge
    from vlm3d_gs.critic.qwen.yes_no import YesNoModel
    from vlm3d_gs.optimize.reconstruct import Reconstruction
    from vlm3d_gs.prior.guidance import DiffusionPrior


@dataclass(frozen=True)
class Objective:
    """Everything that a run optimises, and what watches over it."""

    guidances: list[Guidance]
    """In the order in which a step calls them."""
    questions: tuple[Question, ...] = ()
    """What the critic is asked; empty without a critic."""
    own: Judge | None = None
    """The critic's own questions, to score a scene without gradient."""
    held_out: Judge | None = None
    """Questions in other words, or another model; None if nothing is watched."""
    reconstruction: Reconstruction | None = None
    """What the scene is fitted to before it is distilled; None if the run distils from the start."""
    runtimes: dict[str, str] = field(default_factory=dict)
    """Name of a prior, or `critic` -> what computes its networks: `onnx`, `torch`, `transformers` or `server`."""


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
    """Load the priors and the critic of a run, and make guidances and judges of them.

    Args:
        config: the run.
        prompt: what the scene should show.
        folders: weights of each model, as `weights.locate_models` returns them.
        device: of the run; the settings `devices` may place networks elsewhere.
        streams: `noise` for the priors, `critic` for the augmentation.
        text_cache: folder for embedded prompts and listed questions of large models; None caches nothing.
        plan: how the networks share the device.

    Raises:
        ConfigError: nothing to optimise, or as `check_mode`.
    """
    (objective,) = build_objectives(
        config, [(prompt, streams)], folders, device, text_cache=text_cache, plan=plan
    )
    return objective


def build_objectives(
    config: Config,
    works: Sequence[tuple[Prompt, dict[str, torch.Generator]]],
    folders: dict[str, Path],
    device: torch.device,
    *,
    text_cache: Path | None = None,
    plan: Plan = "full",
) -> list[Objective]:
    """Return an objective for each of several prompts, all by the same networks, which are loaded once.

    Args:
        config: settings of all of them.
        works: prompts, and the random streams of each; see `build_objective`, also for the other arguments.
        folders: weights of each model.
        device: where the networks run.
        text_cache: folder for what large models said before.
        plan: how the networks share the device.

    Raises:
        ConfigError: nothing to optimise, as `check_mode`, or a loss that trains a network for several prompts.
    """
    check_mode(config.critic, config.prior, config.train.loop)
    critic = config.critic
    if not config.priors and not critic.enabled:
        raise ConfigError(
            "Nothing says how the scene should look: prior, detail and critic are all off. "
            "Set prior.enabled=true."
        )

    placed = places(config, device)
    named = [(prompt.text, streams["noise"]) for prompt, streams in works]
    columns = {
        name: build_priors(
            name,
            named,
            settings,
            folders[name],
            placed.prior,
            text_cache=text_cache,
            plan=plan,
            camera=config.camera,
            scene=placed.scene,
        )
        for name, settings in config.priors.items()
    }
    priors = [{name: column[row] for name, column in columns.items()} for row in range(len(works))]

    if critic.enabled and critic.family == "server":
        return [
            _with_server(config, prompt, own)
            for (prompt, _), own in zip(works, priors, strict=True)
        ]

    if critic.enabled:
        models = _load_critic(config, folders, placed.critic, plan)
        return [
            _with_critic(config, prompt, own, models, str(folders["critic"]), streams, text_cache)
            for (prompt, streams), own in zip(works, priors, strict=True)
        ]

    return [
        Objective(
            list(own.values()),
            reconstruction=_reconstruction(config, own),
            runtimes=_runtimes(own),
        )
        for own in priors
    ]


def _with_server(config: Config, prompt: Prompt, priors: dict[str, DiffusionPrior]) -> Objective:
    """Return the objective of a run whose critic is behind a server."""
    from vlm3d_gs.critic.server import ServerScorer

    questions = build_questions(config.critic, prompt)
    scorer = divided_scorer(ServerScorer(config.critic.server, questions))
    return Objective(
        _ranked(priors, scorer, config),
        questions,
        reconstruction=_reconstruction(config, priors, scorer),
        runtimes=_runtimes(priors, "server"),
    )


@dataclass(frozen=True)
class CriticModels:
    """The vision-language models of a run."""

    critic: YesNoModel
    """Answers the questions."""
    judge: YesNoModel
    """Answers the held-out ones; often the critic itself."""
    offload: bool
    """Whether they leave their device between answers."""


def _load_critic(
    config: Config, folders: dict[str, Path], device: torch.device, plan: Plan
) -> CriticModels:
    critic = config.critic
    offload = plan != "full" and critic.quantize == "none"  # quantised weights cannot move
    model = build_vlm(critic, folders["critic"], device, plan)

    # The watch reads with another model, or with the critic itself in other words.
    judge = model
    if critic.watch.enabled and "judge" in folders:
        settings = replace(critic, family=critic.watch.family or critic.family)
        judge = build_vlm(settings, folders["judge"], device, plan)
    return CriticModels(model, judge, offload)


def _with_critic(
    config: Config,
    prompt: Prompt,
    priors: dict[str, DiffusionPrior],
    models: CriticModels,
    name: str,
    streams: dict[str, torch.Generator],
    text_cache: Path | None,
) -> Objective:
    """Return the objective of a run whose critic has weights here; `name` is the critic's, for the cache."""
    from vlm3d_gs.critic.guidance import Critic
    from vlm3d_gs.critic.judge import Judge

    critic, model, offload = config.critic, models.critic, models.offload
    questions = build_questions(critic, prompt, model, name, text_cache)
    own = Judge(model, questions, size_px=model.trained_px, offload=offload)

    held_out = None
    if critic.watch.enabled:
        judge = models.judge
        held_out = Judge(
            judge, held_out_questions(prompt), size_px=judge.trained_px, offload=offload
        )

    # The critic acts by its choice among noises, by its gradient, or by both.
    guidances: list[Guidance] = list(priors.values())
    if critic.mode != "gradient" and can_rank(config.prior):
        guidances = _ranked(priors, divided_scorer(own), config)
    critics: list[Guidance] = []
    if critic.mode in ("gradient", "both"):
        critics = [Critic(model, questions, critic, streams["critic"], offload=offload)]
    scorer = divided_scorer(own) if critic.mode != "gradient" else None
    reconstruction = _reconstruction(config, priors, scorer, critics)

    return Objective(
        [*guidances, *critics],
        questions,
        own,
        held_out,
        reconstruction,
        _runtimes(priors, model.qwen.runtime),
    )


def build_watch(objective: Objective, config: Config) -> RewardWatch | None:
    """Return what reads the scene beside the reward; None without a critic or with `critic.watch.enabled` off."""
    own, held_out = objective.own, objective.held_out
    if own is None or held_out is None:
        return None

    return RewardWatch(
        own=own.score,
        judge=held_out.score,
        camera=config.camera,
        config=config.critic.watch,
        steps=config.train.steps,
        backend=config.render.backend,
        names=config.critic.view_names,
    )


def check_mode(critic: CriticConfig, prior: PriorConfig, loop: str = "reconstruct") -> None:
    """Refuse a critic that compares noises beside a prior that has none to compare, before anything is loaded.

    Args:
        critic: settings.
        prior: settings of the prior whose noises are compared.
        loop: of the run; in `reconstruct` a critic of mode `both` chooses among whole pictures, which needs no noise.

    Raises:
        ConfigError: `critic.mode` and `prior.loss` do not fit; the message says how to change either.
    """
    compares = critic.mode in ("best-of-n", "pairwise")
    if critic.mode == "both" and prior.enabled and loop == "distill":
        compares = True
    if critic.enabled and compares and not can_rank(prior):
        found = f"prior.loss={prior.loss}" if prior.enabled else "prior.enabled=false"
        raise ConfigError(
            f"critic.mode {critic.mode!r} compares noises of the prior, which needs prior.loss "
            f"{' or '.join(RANKING_LOSSES)}, got {found}. Set prior.loss=sds, or critic.mode=gradient for a "
            "critic with weights."
        )


def can_rank(prior: PriorConfig) -> bool:
    """Return whether the critic can compare noises of this prior: its loss takes one prediction per noise."""
    return prior.enabled and loss_named(prior.loss).can_rank


def _runtimes(priors: dict[str, DiffusionPrior], critic: str | None = None) -> dict[str, str]:
    """Return `Objective.runtimes`."""
    runtimes = {name: prior.denoiser.runtime for name, prior in priors.items()}
    return runtimes if critic is None else {**runtimes, "critic": critic}


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
    source = CriticTargets(
        targets, scorer, critic, settings.critic_guidance, config.critic.view_names
    )
    return Reconstruction(source, critics if settings.critic_gradient else ())


def _ranked(priors: dict[str, DiffusionPrior], scorer: Scorer, config: Config) -> list[Guidance]:
    """Return the priors; the one named `prior` weights its noises by the critic's score of what they lead to."""
    from vlm3d_gs.critic.best_of_n import BestOfN

    until = round(config.critic.select_until * config.train.steps)
    others: list[Guidance] = [prior for name, prior in priors.items() if name != "prior"]
    return [BestOfN(priors["prior"], scorer, config.critic, until), *others]

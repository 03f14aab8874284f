"""What we optimise for: priors and critics behind one protocol (see `base`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm3d_gs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from vlm3d_gs.config import Config
    from vlm3d_gs.guidance.base import Guidance


def build_guidance(
    config: Config,
    prior_folder: Path,
    critic_folder: Path | None,
    device: torch.device,
    noise: torch.Generator,
) -> list[Guidance]:
    """Return the guidances of a run: the prior, and the critic if it has a folder.

    Args:
        config: the run.
        prior_folder: the diffusion pipeline's weights.
        critic_folder: the vision-language model's weights, None for a run without critic.
        device: where the networks run.
        noise: source of the prior's noise.

    Raises:
        ConfigError: an unknown family.
    """
    if config.prior.family != "mini":
        raise ConfigError(f"Unknown prior.family {config.prior.family!r}. Available: mini.")
    from vlm3d_gs.guidance.denoiser import load_denoiser
    from vlm3d_gs.guidance.multiview import MultiViewPrior

    guidances: list[Guidance] = [
        MultiViewPrior(load_denoiser(prior_folder, device), config.prompt, config.prior, noise)
    ]
    if critic_folder is None:
        return guidances
    if config.critic.family != "mini":
        raise ConfigError(f"Unknown critic.family {config.critic.family!r}. Available: mini.")
    from vlm3d_gs.guidance.critic import Critic, YesNoModel
    from vlm3d_gs.guidance.questions import Question, questions_for

    questions = questions_for(
        config.prompt, config.critic.semantic_weight, config.critic.geometric_weight
    )
    asked = tuple(
        Question(f"ask_{index}", text) for index, text in enumerate(config.critic.asks, 1)
    )
    guidances.append(Critic(YesNoModel(critic_folder, device), questions + asked, config.critic))
    return guidances

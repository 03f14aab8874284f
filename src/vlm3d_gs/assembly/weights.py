"""Which models a run needs, which of them are embedded, and where their weights are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlm3d_gs.config import CriticConfig, PriorConfig
from vlm3d_gs.models import family_entry, locate


def embedded(priors: Mapping[str, PriorConfig], critic: CriticConfig) -> bool:
    """Return whether one of the run's models is embedded, and so knows a small vocabulary only."""
    if any(family_entry("prior", prior.family).embedded for prior in priors.values()):
        return True
    if not critic.enabled or critic.family == "server":
        return False
    return family_entry("critic", critic.family).embedded


def large_priors(priors: Mapping[str, PriorConfig]) -> dict[str, PriorConfig]:
    """Return those of the run's priors that are not embedded, by name."""
    return {
        name: prior
        for name, prior in priors.items()
        if not family_entry("prior", prior.family).embedded
    }


def has_large_critic(critic: CriticConfig) -> bool:
    """Return whether the run loads a critic that is not embedded."""
    if not critic.enabled or critic.family == "server":
        return False
    return not family_entry("critic", critic.family).embedded


def locate_models(
    priors: Mapping[str, PriorConfig],
    critic: CriticConfig,
    *,
    offline: bool = False,
    progress: bool = False,
) -> dict[str, Path]:
    """Return the folder of each model of a run, fetched if need be: the priors by name, `critic` and `judge`.

    Args:
        priors: those in use, by name.
        critic: settings; a disabled one, or one on a server, needs no weights here.
        offline: never contact the hub.
        progress: show progress bars of downloads.

    Raises:
        ModelError: a model is neither in a folder, nor cached, nor available from the hub.
    """
    needed: dict[str, tuple[str, str | None]] = {
        name: (prior.family, prior.model) for name, prior in priors.items()
    }
    if critic.enabled and critic.family != "server":
        needed["critic"] = (family_entry("critic", critic.family).name, critic.model)

        watch = critic.watch
        if watch.enabled and (watch.family or watch.model):
            family = family_entry("critic", watch.family or critic.family).name
            needed["judge"] = (family, watch.model)

    return {
        name: locate(model, family, offline=offline, progress=progress)
        for name, (family, model) in needed.items()
    }


def text_cache(priors: Mapping[str, PriorConfig], critic: CriticConfig) -> Path | None:
    """Return the folder for texts of large models, embedded or written; None if all models are embedded."""
    large = large_priors(priors) or has_large_critic(critic)
    return Path.home() / ".cache" / "vlm3d-gs" / "text" if large else None

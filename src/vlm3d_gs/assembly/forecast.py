"""What a run would take, before anything is fetched or started: downloads, memory, minutes, disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from vlm3d_gs.assembly.device import has_small_models_only
from vlm3d_gs.assembly.expectation import (
    CARDS,
    card_named,
    duration,
    expected,
    row_of,
    usable_cores,
)
from vlm3d_gs.assembly.memory import MemoryEstimate, critic_work, describe, need_mib
from vlm3d_gs.assembly.plan import critic_side_px, critic_text_tokens, estimate_parameters
from vlm3d_gs.assembly.weights import has_large_critic, large_priors
from vlm3d_gs.config import Config
from vlm3d_gs.core.residency import PLANS
from vlm3d_gs.models.catalogue import ModelEntry, family_entry
from vlm3d_gs.models.sizes import CRITIC_CONFIGS, MILLIONS

PLAN_WORDS = {
    "full": "all models on the card",
    "offload": "models take turns, slower",
    "sequential": "turns, pictures one by one, slow",
}
RUN_MB = 60
"""A run's folder, with two checkpoints of a hundred thousand Gaussians, rounded up; the embedded models leave 10 MB."""


def describe_plan(config: Config) -> str:
    """Return what a run would take, as lines of text. Reads no weights and starts nothing.

    Args:
        config: the run.
    """
    lines = [f"{config.prompt}: {config.preset}, {config.train.steps} steps"]
    lines += ["", *_downloads(config)]
    if has_small_models_only(config):
        found = expected(config, None, usable_cores())
        assert found is not None
        return "\n".join(
            [*lines, "", f"On this CPU about {duration(found.seconds)} ({found.basis}) and 1.5 GB."]
        )
    return "\n".join([*lines, "", *_memory(config), "", *_times(config)])


def needs(config: Config) -> str:
    """Return what a run with large models takes as one sentence; empty for embedded ones."""
    if has_small_models_only(config):
        return ""
    names = [
        f"{entry.name} ({entry.size_mb / 1000:.1f} GB)"
        for entry in entries(config)
        if not entry.embedded
    ]
    memory = planned_memory(config)
    full, least = (need_mib(memory, plan) / 1024 for plan in ("full", "sequential"))
    return (
        f"This run needs {' and '.join(names)} on disk, and {full:.1f} GiB of GPU memory, or {least:.1f} GiB where its "
        "models take turns. "
    )


def entries(config: Config) -> list[ModelEntry]:
    """Return the models that a run needs here, each once."""
    needed = [family_entry("prior", prior.family) for prior in config.priors.values()]
    if config.critic.enabled and config.critic.family != "server":
        needed.append(family_entry("critic", config.critic.family))
    return list(dict.fromkeys(needed))


def planned_memory(config: Config) -> MemoryEstimate:
    """Estimate the GPU memory of a run from the published sizes of its models."""
    parameters = {
        f"{name}.{component}": round(1e6 * millions)
        for name, prior in large_priors(config.priors).items()
        for component, millions in MILLIONS[prior.family].items()
    }

    critic = None
    if has_large_critic(config.critic):
        family, camera = config.critic.family, config.camera
        parameters["critic.critic"] = round(1e6 * MILLIONS[family]["critic"])
        critic = critic_work(
            CRITIC_CONFIGS[family],
            round(camera.n_groups.high) * camera.n_views,
            critic_side_px(config.critic, camera),
            critic_text_tokens(config.critic),
        )

    return estimate_parameters(config, parameters, critic)


def _downloads(config: Config) -> Iterator[str]:
    from vlm3d_gs.models.hub import cache_folder
    from vlm3d_gs.models.listing import local_folder

    missing_mb, needed = 0, [entry for entry in entries(config) if not entry.embedded]
    for entry in needed:
        there = _given(config, entry) or local_folder(entry)
        size = f"{entry.size_mb / 1000:.1f} GB"
        login = ", login needed" if entry.gated else ""
        state = "on this machine" if there else f"to download, {size}"
        missing_mb += 0 if there else entry.size_mb
        yield f"{entry.name}: {state} ({entry.licence}{login})"

    if not needed:
        yield "Nothing to download: the models are embedded."
    elif missing_mb:
        folder = cache_folder()
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free_gb = shutil.disk_usage(existing).free / 1e9
        enough = "" if 1e3 * free_gb > missing_mb else ": NOT ENOUGH"
        yield f"Disk: {missing_mb / 1000:.1f} GB to {folder}, {free_gb:.0f} GB free{enough}"
    yield f"Disk for the run: about {RUN_MB if needed else 10} MB in {config.out}"


def _given(config: Config, entry: ModelEntry) -> Path | None:
    """Return the folder that the user names for a model, if it is there."""
    named = config.critic.model if entry.role == "critic" else config.prior.model
    folder = Path(named).expanduser() if named else None
    return folder if folder is not None and folder.exists() else None


def _memory(config: Config) -> Iterator[str]:
    memory, (card, free_mib) = planned_memory(config), _card()
    yield describe(memory)
    for plan in PLANS:
        need = need_mib(memory, plan)
        fits = "" if free_mib is None else "; fits" if need <= free_mib else "; does not fit"
        yield f"  memory={plan:<11} {need / 1024:5.1f} GiB  {PLAN_WORDS[plan]}{fits}"
    if free_mib is None:
        yield "torch sees no CUDA device here."
    else:
        yield f"{card}: {free_mib / 1024:.1f} GiB free."


def _times(config: Config) -> Iterator[str]:
    name, _ = _card()
    cards = [card for card in (card_named(name or ""),) if card] or [
        *("H100", "A100", "RTX 4090", "RTX 3090"),
    ]
    for card in cards:
        found = expected(config, card, 0)
        if found is None:
            yield f"Nobody has measured a run like this, so there is no estimate of its time on {card}."
            return
        yield f"  {card:<9} {CARDS[card][1]:>3} GB  about {duration(found.seconds)}"

    cores = usable_cores()
    slow, row = expected(config, None, cores), row_of(config)
    assert slow is not None
    assert row is not None
    yield f"  this CPU, {cores} cores  about {duration(slow.seconds)}"
    yield f"Without start and download. Cards: {row.basis}; others scaled by their makers' rates. CPU: {slow.basis}."


def _card() -> tuple[str | None, float | None]:
    """Return the name and the free memory of the card that a run would use, MiB; None without one."""
    if not torch.cuda.is_available():
        return None, None
    return torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0] / 2**20

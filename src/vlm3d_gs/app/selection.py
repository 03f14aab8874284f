"""Several beginnings, one end: seeds are run for a while, the critic compares them, the best goes on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from vlm3d_gs.assembly.device import choose_device
from vlm3d_gs.assembly.start import read_prompt
from vlm3d_gs.config import Config, replace_path
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.pipeline import GenerateResult, generate
from vlm3d_gs.runs.log import prepare_run_folder, write_config, write_json

CANDIDATES = "candidates"
"""Folder of the beginnings, in the run folder."""
MOST_SEEDS = 64


def generate_best(
    config: Config,
    n_seeds: int,
    pick: str = "best",
    pick_at: float = 0.4,
    *,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> GenerateResult:
    """Begin several seeds, finish the one that the critic likes best.

    The held-out questions decide, so that a beginning which pleases the critic by accident does not win. The seeds are
    `train.seed`, `train.seed + 1`, ...; every beginning stays in the folder `candidates`, with its picture.

    Args:
        config: the run; `train.seed` is the first seed.
        n_seeds: 2 or more.
        pick: only "best".
        pick_at: fraction of the run after which they are compared.
        overwrite: replace an earlier run in the folder.
        resume: not allowed here.
        quiet: show nothing.

    Raises:
        ConfigError: no critic, a wrong number, or what `generate` refuses.
    """
    if pick != "best":
        raise ConfigError(f"--pick must be best, got {pick!r}.")
    if not 2 <= n_seeds <= MOST_SEEDS:
        raise ConfigError(f"--seeds must be 2 to {MOST_SEEDS}, got {n_seeds}.")
    if not 0.05 <= pick_at <= 0.95:
        raise ConfigError(f"--pick-at must be in [0.05, 0.95], got {pick_at:g}.")
    if resume:
        raise ConfigError("--seeds begins anew; to go on with one seed, use --resume without it.")
    if not config.critic.enabled or config.critic.family == "server":
        raise ConfigError("--seeds needs a critic with weights here to compare them. Enable it.")
    until = max(1, round(pick_at * config.train.steps))
    first = config.train.seed
    scores: dict[int, float] = {}

    # Refused before a folder is touched.
    read_prompt(config.prompt, config.priors, config.critic)
    choose_device(config.device)
    prepare_run_folder(config.out, overwrite=overwrite)
    shutil.rmtree(config.out / CANDIDATES, ignore_errors=True)
    write_config(
        config.out, config
    )  # interrupted now, it is still a run's folder, to be overwritten
    for seed in range(first, first + n_seeds):
        begun = _candidate(config, seed)
        made = generate(begun, quiet=quiet, until=until)
        if made.steps < until:
            return made  # stopped by the user
        assert made.held_out is not None
        scores[seed] = made.held_out
    best = max(scores, key=scores.__getitem__)
    shutil.copytree(_candidate(config, best).out, config.out, dirs_exist_ok=True)
    write_json(
        config.out / CANDIDATES / "scores.json",
        {"scores": {str(seed): score for seed, score in scores.items()}, "picked": best},
    )
    return generate(replace_path(config, "train.seed", best), resume=True, quiet=quiet)


def _candidate(config: Config, seed: int) -> Config:
    """Return the config of one beginning: its own folder, a picture instead of films."""
    out: Path = config.out / CANDIDATES / f"seed-{seed}"
    watched = replace_path(config, "critic.watch.enabled", True)
    return replace(
        replace_path(watched, "train.seed", seed),
        out=out,
        export=replace(config.export, formats=("ply", "sheet")),
    )

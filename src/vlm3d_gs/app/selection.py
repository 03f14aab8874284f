"""The best of several seeds: all run for a while, the critic compares them, and one is finished."""

from __future__ import annotations

import shutil
from dataclasses import replace

from vlm3d_gs.assembly.device import run_device
from vlm3d_gs.assembly.start import read_prompt
from vlm3d_gs.config import Config, replace_path
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.pipeline import GenerateResult, generate
from vlm3d_gs.runs.log import prepare_run_folder, write_config, write_json

CANDIDATES = "candidates"
"""Folder of the unfinished seeds, in the run folder."""
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
    """Start several seeds and finish the one that the critic likes best.

    Held-out questions decide, so that a seed which pleases the critic by accident does not win. The seeds are
    `train.seed`, `train.seed + 1`, ...; all of them stay in the folder `candidates`, each with a picture.

    Args:
        config: the run; `train.seed` is the first seed.
        n_seeds: 2 or more.
        pick: only "best".
        pick_at: fraction of the run after which the seeds are compared, 0.05 to 0.95.
        overwrite: replace an earlier run in the folder.
        resume: not allowed here.
        quiet: print nothing.

    Raises:
        ConfigError: no critic, a number out of range, or as in `generate`.
    """
    _check(config, n_seeds, pick, pick_at, resume)

    # Refused before the folder is touched.
    read_prompt(config.prompt, config.priors, config.critic)
    run_device(config)
    prepare_run_folder(config.out, overwrite=overwrite)
    shutil.rmtree(config.out / CANDIDATES, ignore_errors=True)
    # If interrupted from here on, the folder is still known as a run's, which --overwrite may replace.
    write_config(config.out, config)

    until = max(1, round(pick_at * config.train.steps))
    scores: dict[int, float] = {}
    for seed in range(config.train.seed, config.train.seed + n_seeds):
        result = generate(_candidate(config, seed), quiet=quiet, until=until)
        if result.steps < until:
            return result  # stopped by the user
        assert result.held_out is not None
        scores[seed] = result.held_out

    best = max(scores, key=scores.__getitem__)
    shutil.copytree(_candidate(config, best).out, config.out, dirs_exist_ok=True)
    write_json(
        config.out / CANDIDATES / "scores.json",
        {"scores": {str(seed): score for seed, score in scores.items()}, "picked": best},
    )
    return generate(replace_path(config, "train.seed", best), resume=True, quiet=quiet)


def _check(config: Config, n_seeds: int, pick: str, pick_at: float, resume: bool) -> None:
    if pick != "best":
        raise ConfigError(f"--pick must be best, got {pick!r}.")
    if not 2 <= n_seeds <= MOST_SEEDS:
        raise ConfigError(f"--seeds must be 2 to {MOST_SEEDS}, got {n_seeds}.")
    if not 0.05 <= pick_at <= 0.95:
        raise ConfigError(f"--pick-at must be in [0.05, 0.95], got {pick_at:g}.")
    if resume:
        raise ConfigError(
            "--seeds always starts anew. To continue one seed, use --resume without it."
        )
    if not config.critic.enabled or config.critic.family == "server":
        raise ConfigError(
            "--seeds compares scores of a critic with weights here, and there is none. Enable one."
        )


def _candidate(config: Config, seed: int) -> Config:
    """Return the config of one unfinished seed: in its own folder, with a picture instead of films."""
    watched = replace_path(config, "critic.watch.enabled", True)
    return replace(
        replace_path(watched, "train.seed", seed),
        out=config.out / CANDIDATES / f"seed-{seed}",
        export=replace(config.export, formats=("ply", "sheet")),
    )

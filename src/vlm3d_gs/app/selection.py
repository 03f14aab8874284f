"""The best of several seeds: all run for a while, the critic compares them, and one is finished."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm3d_gs.assembly.device import run_device
from vlm3d_gs.assembly.products import write_products
from vlm3d_gs.assembly.resume import expect_same_run, stored_config
from vlm3d_gs.assembly.start import read_prompt
from vlm3d_gs.config import Config, replace_path, to_dict
from vlm3d_gs.core.errors import CheckpointError, ConfigError, ExportError
from vlm3d_gs.core.files import atomic_path, make_folder
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.optimize.trainer import Observer
from vlm3d_gs.pipeline import GenerateResult, generate
from vlm3d_gs.runs.folder import (
    CANDIDATES,
    CHECKPOINT,
    CONFIG,
    METRICS,
    PREVIEWS,
    RunFolder,
    check_run_folder,
    run_folder,
)
from vlm3d_gs.runs.log import write_config, write_json

CHOICE = "choice.json"
"""In the folder of the candidates: among how many is chosen, and when."""
SCORES = "scores.json"
MOST_SEEDS = 64


def generate_one_or_best(
    config: Config,
    n_seeds: int | None,
    pick: str = "best",
    pick_at: float = 0.4,
    *,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    observe: Observer | None = None,
) -> GenerateResult:
    """Generate one seed, or the best of several; arguments and errors as in `generate_best`.

    Args:
        config: the run.
        n_seeds: None is one, or what an interrupted choice in the folder has, if that is resumed.
        pick: as in `generate_best`.
        pick_at: likewise.
        overwrite: likewise.
        resume: likewise.
        quiet: likewise.
        observe: likewise.
    """
    if resume and n_seeds is None:
        n_seeds, pick_at = _stored_choice(config.out) or (None, pick_at)
    if n_seeds is None:
        return generate(config, overwrite=overwrite, resume=resume, quiet=quiet, observe=observe)
    return generate_best(
        config,
        n_seeds,
        pick,
        pick_at,
        overwrite=overwrite,
        resume=resume,
        quiet=quiet,
        observe=observe,
    )


def generate_best(
    config: Config,
    n_seeds: int,
    pick: str = "best",
    pick_at: float = 0.4,
    *,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    observe: Observer | None = None,
) -> GenerateResult:
    """Start several seeds and finish the one that the critic likes best.

    Held-out questions decide, so that a seed which pleases the critic by accident does not win. The seeds are
    `train.seed`, `train.seed + 1`, ...; all of them stay in the folder `candidates`, each with a picture. If a signal
    ends it, the best seed so far is exported.

    Args:
        config: the run; `train.seed` is the first seed.
        n_seeds: 2 or more.
        pick: only "best".
        pick_at: fraction of the run after which the seeds are compared, 0.05 to 0.95.
        overwrite: replace an earlier run in the folder.
        resume: go on where an interrupted choice among the same seeds stopped.
        quiet: print nothing.
        observe: called after each step of each run.

    Raises:
        ConfigError: no critic, a number out of range, or as in `generate`.
        CheckpointError: there is nothing to resume, or it chose among other seeds.
    """
    _check(config, n_seeds, pick, pick_at)

    # Refused before the folder is touched.
    read_prompt(config.prompt, config.priors, config.critic)
    run_device(config)
    check_run_folder(config.out, overwrite=overwrite, resume=resume)
    choice = {"first": config.train.seed, "seeds": n_seeds, "pick_at": pick_at}

    with run_folder(config.out, overwrite=overwrite, resume=resume) as folder:
        if resume:
            config = _same_choice(config, choice)
        # If interrupted from here on, the folder is still known as a run's, which --overwrite may replace.
        write_config(folder.path, config)
        make_folder(folder.path / CANDIDATES)
        write_json(folder.path / CANDIDATES / CHOICE, choice)

        best = _choose(folder, config, choice, quiet=quiet, observe=observe)
        if isinstance(best, GenerateResult):
            return best
        chosen = replace_path(config, "train.seed", best)
        if not (config.out / CHECKPOINT).is_file():
            copy_run(candidate_config(config.out, config, best).out, config.out)
        return generate(chosen, resume=True, quiet=quiet, observe=observe)


def _stored_choice(out: Path) -> tuple[int, float] | None:
    """Return among how many seeds the run in a folder chooses, and when; None if it does no longer, or not."""
    if (out / CHECKPOINT).is_file():
        return None  # the choice is made, and the best is being finished
    found = _read_object(out / CANDIDATES / CHOICE)
    n_seeds, pick_at = found.get("seeds"), found.get("pick_at")
    if isinstance(n_seeds, int) and isinstance(pick_at, int | float):
        return n_seeds, float(pick_at)
    return None


def _choose(
    folder: RunFolder,
    config: Config,
    choice: dict[str, Any],
    *,
    quiet: bool,
    observe: Observer | None,
) -> int | GenerateResult:
    """Run all seeds up to the comparison and return the best, or what was exported if a signal came."""
    until = max(1, round(choice["pick_at"] * config.train.steps))
    scores = _stored_scores(folder.path)
    for seed in range(choice["first"], choice["first"] + choice["seeds"]):
        if seed in scores:
            continue
        candidate = candidate_config(folder.path, config, seed)
        result = go_on(candidate, quiet=quiet, until=until, observe=observe)
        # From now on there is something to resume, or to export.
        folder.stand()
        if result.signal is not None or result.steps < until:
            return _export_best(result, scores, config)
        assert result.held_out is not None
        scores[seed] = result.held_out
        _write_scores(config.out, scores)

    best = max(scores, key=scores.__getitem__)
    _write_scores(config.out, scores, picked=best)
    return best


def _write_scores(out: Path, scores: dict[int, float], **picked: int) -> None:
    content = {"scores": {str(seed): score for seed, score in scores.items()}, **picked}
    write_json(out / CANDIDATES / SCORES, content)


def go_on(
    candidate: Config, *, quiet: bool, until: int | None, observe: Observer | None
) -> GenerateResult:
    """Run up to a step, from the checkpoint in the run's folder if it has one."""
    if (candidate.out / CHECKPOINT).is_file():
        try:
            return generate(candidate, resume=True, quiet=quiet, until=until, observe=observe)
        except CheckpointError:
            pass  # damaged, and the one before it as well: this seed starts again
    overwrite = (candidate.out / CONFIG).is_file()
    return generate(candidate, overwrite=overwrite, quiet=quiet, until=until, observe=observe)


def _export_best(
    stopped: GenerateResult, scores: dict[int, float], config: Config
) -> GenerateResult:
    """Export the best seed so far: of those that were compared, or else the one that was stopped."""
    scene = stopped.gaussians
    if scores:
        best = max(scores, key=scores.__getitem__)
        scene = read_splat(candidate_config(config.out, config, best).out / "scene.ply")
    written = write_products(scene, config, lambda line: None)
    if written.failures:
        raise ExportError(str(written.failures[0]))
    return replace(stopped, gaussians=scene, out=config.out, files=tuple(written.files))


def copy_run(source: Path, target: Path) -> None:
    """Copy what a run goes on from; the checkpoint last, since it says that the rest is there."""
    if (source / PREVIEWS).is_dir():
        shutil.copytree(source / PREVIEWS, target / PREVIEWS, dirs_exist_ok=True)
    for name in (METRICS, CHECKPOINT):
        with atomic_path(target / name) as temporary:
            shutil.copyfile(source / name, temporary)


def _check(config: Config, n_seeds: int, pick: str, pick_at: float) -> None:
    if pick != "best":
        raise ConfigError(f"--pick must be best, got {pick!r}.")
    if not 2 <= n_seeds <= MOST_SEEDS:
        raise ConfigError(f"--seeds must be 2 to {MOST_SEEDS}, got {n_seeds}.")
    if not 0.05 <= pick_at <= 0.95:
        raise ConfigError(f"--pick-at must be in [0.05, 0.95], got {pick_at:g}.")
    if not config.critic.enabled or config.critic.family == "server":
        raise ConfigError(
            "--seeds compares scores of a critic with weights here, and there is none. Enable one."
        )


def _same_choice(config: Config, choice: dict[str, Any]) -> Config:
    """Return the config with the first seed again, if the folder's run chooses as this one does."""
    before = _read_object(config.out / CANDIDATES / CHOICE)
    if not before:
        raise CheckpointError(
            f"The run in {config.out} does not choose among seeds. Leave out --seeds, or choose another --out."
        )

    # Once the choice is made, the run has the seed that was picked.
    picked = _read_object(config.out / CANDIDATES / SCORES).get("picked")
    if choice["first"] == picked:
        choice["first"] = before.get("first")
    for name, option in (("first", "--seed"), ("seeds", "--seeds"), ("pick_at", "--pick-at")):
        if before.get(name) != choice[name]:
            raise CheckpointError(
                f"The run in {config.out} was started with {option} {before.get(name)}, not "
                f"{choice[name]}. Use the same, or choose another --out."
            )

    config = replace_path(config, "train.seed", choice["first"])
    stored = replace_path(stored_config(config.out), "train.seed", choice["first"])
    expect_same_run(to_dict(stored), config, config.out)
    return config


def _stored_scores(folder: Path) -> dict[int, float]:
    """Return the held-out scores of the seeds that have come to the comparison."""
    found = _read_object(folder / CANDIDATES / SCORES).get("scores")
    return {
        int(seed): float(score)
        for seed, score in (found.items() if isinstance(found, dict) else ())
        if seed.isdecimal() and isinstance(score, int | float)
    }


def _read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one if the file is not there, or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def candidate_config(out: Path, config: Config, seed: int) -> Config:
    """Return the config of one unfinished seed: in its own folder, with a picture instead of films."""
    watched = replace_path(config, "critic.watch.enabled", True)
    return replace(
        replace_path(watched, "train.seed", seed),
        out=out / CANDIDATES / f"seed-{seed}",
        export=replace(config.export, formats=("ply", "sheet")),
    )

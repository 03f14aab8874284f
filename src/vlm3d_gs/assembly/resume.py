"""Going on with an interrupted run: its settings, its checkpoint, and what may differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from vlm3d_gs.config import Config, from_dict, to_dict
from vlm3d_gs.config.presets import PresetName, preset
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.core.errors import CheckpointError
from vlm3d_gs.runs.checkpoint import Checkpoint, load_newest
from vlm3d_gs.runs.folder import CHECKPOINT, CONFIG, SUMMARY, newest_folder

SAME_RUN = (
    "out",
    "preset",
    "device",
    "devices.",
    "processes",
    "memory",
    "offline",
    "export.",
    "critic.server.",
)
"""Settings that may differ when a run goes on, by the beginnings of their paths: they say where it runs and what is
written, not what it computes. `preset` is only a name."""
SAME_TRAIN = ("steps", "preview_every", "checkpoint_every", "checkpoint_every_s")
"""Of `train`, likewise; more steps stretch the schedules of what is left."""
MOST_NAMED = 4
"""Differing settings that a message names."""


def load_unfinished(folder: Path, config: Config) -> tuple[Checkpoint, str]:
    """Return the checkpoint of an interrupted run that this config continues, and what the user should know.

    Raises:
        CheckpointError: there is none, it is damaged, it belongs to another run, or nothing is left to do.
    """
    checkpoint, note = load_newest(folder / CHECKPOINT)
    expect_same_run(checkpoint.meta.get("settings"), config, folder)

    steps = config.train.steps
    left = checkpoint.step < steps or not _is_complete(folder, config)
    if checkpoint.step > steps or not left:
        raise CheckpointError(
            f"The run in {folder} has done {checkpoint.step} of {steps} steps. Use more --steps."
        )
    return checkpoint, note


def is_done(config: Config) -> bool:
    """Return whether the run in a config's folder has all its steps and files, so that there is nothing to resume.

    Raises:
        CheckpointError: it is another run's folder, as `expect_same_run` says.
    """
    if not (config.out / CONFIG).is_file() or not _is_complete(config.out, config):
        return False
    expect_same_run(to_dict(stored_config(config.out)), config, config.out)
    return True


def expect_same_run(before: object, config: Config, folder: Path) -> None:
    """Require that a config goes on with a run, and does not turn it into another one.

    Args:
        before: settings of the run, as plain data.
        config: what is asked for now.
        folder: of the run, for the message.

    Raises:
        CheckpointError: a setting differs that changes what the run computes; the message names it.
    """
    # A checkpoint has them from JSON.
    old, new = (_flat(json.loads(json.dumps(each))) for each in (before, to_dict(config)))
    free = (*SAME_RUN, *(f"train.{name}" for name in SAME_TRAIN))
    changed = [
        f"{path} was {old.get(path)!r}, not {new.get(path)!r}"
        for path in sorted(old | new)
        if old.get(path) != new.get(path)
        and not any(path == name or (name[-1] == "." and path.startswith(name)) for name in free)
    ]
    if not changed:
        return

    # What was meant comes first: the prompt and the seed stand before the rest.
    first = sorted(changed, key=lambda text: not text.startswith(("prompt ", "train.seed ")))
    more = f" and {len(first) - MOST_NAMED} more" if len(first) > MOST_NAMED else ""
    raise CheckpointError(
        f"The run in {folder} had other settings: {'; '.join(first[:MOST_NAMED])}{more}. Leave them "
        "out, and --resume takes the old ones; or choose another --out."
    )


def config_to_resume(prompt: str, out: Path | None, preset_name: PresetName | None) -> Config:
    """Return the settings from which a command that resumes a run starts: those of the run.

    Args:
        prompt: of the command.
        out: folder of the run; None is where the last one of the prompt went by default.
        preset_name: of the command, None if it names none; another than the run's gives that preset's settings, which
            `load_unfinished` then refuses with the differences.

    Raises:
        CheckpointError: the settings cannot be read.
        ConfigError: another version wrote them.
    """
    fresh = preset(preset_name or "mini", prompt)
    folder = out or newest_folder(fresh.out)
    if not (folder / CONFIG).is_file():
        return replace(fresh, out=folder)
    stored = stored_config(folder)
    if preset_name not in (None, stored.preset):
        return replace(fresh, out=folder)
    return replace(stored, prompt=prompt)


def stored_config(folder: Path) -> Config:
    """Return the settings of the run in a folder, as they were.

    Raises:
        CheckpointError: they cannot be read.
        ConfigError: another version wrote them.
    """
    try:
        data = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # The checkpoint has them, too.
        data = load_newest(folder / CHECKPOINT)[0].meta.get("settings")
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{folder / CONFIG} is damaged. Start over with --overwrite, or choose another --out."
        )
    return replace(from_dict(data), out=folder)


def _is_complete(folder: Path, config: Config) -> bool:
    """Return whether the last scene of the run is there in all formats that are asked for."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        done = summary["files"] if summary["steps"] == config.train.steps else []
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
    if not summary.get("finished"):
        return False
    files = {PRODUCTS[name].file for name in config.export.formats}
    return files <= set(done) and all((folder / name).is_file() for name in files)


def _flat(settings: object, prefix: str = "") -> dict[str, object]:
    """Return nested settings by their dotted paths."""
    flat: dict[str, object] = {}
    for name, value in settings.items() if isinstance(settings, dict) else ():
        path = f"{prefix}{name}"
        flat |= _flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat

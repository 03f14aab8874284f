"""From what a command says to a batch: shared settings, and which workers run where."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from vlm3d_gs.batch.driver import Driver, Job
from vlm3d_gs.batch.items import BATCH_DECIDES, Item, Shared, item_config
from vlm3d_gs.batch.local import LocalDriver, Place
from vlm3d_gs.batch.prompts import PromptList
from vlm3d_gs.batch.run import BatchResult, run_batch
from vlm3d_gs.config.bounds import check_device
from vlm3d_gs.core.errors import ConfigError, MissingDependencyError

UNITS_S = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
MOST_SEEDS = 64
WORKER_MIB = 1500
"""Memory of a worker with the embedded models, which a run of default length was seen to stay below."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where a batch goes, and where it runs."""

    out: str | Path
    """Its folder, or the URL of one."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` (all cards) or `cuda:N`."""
    workers: int | None = None
    """Processes; None is one a card, or one a core."""
    threads: int | None = None
    """Of each; None is 1 on the CPU, or all cores for a single worker that was asked for."""
    offline: bool = False
    """Never contact the model hub."""
    ray: str | None = None
    """Address of a Ray cluster, `auto` or `local`; None is this machine without Ray."""
    gpus: float = 1.0
    """Of each worker on a cluster, where the device is CUDA; a fraction shares a card."""


def shared_settings(
    start: Shared, values: Mapping[str, Any], assignments: Sequence[str], budget: str | None
) -> Shared:
    """Return the settings of a batch, checked.

    Args:
        start: what options of their own say.
        values: dotted path -> value; None leaves that setting as it is.
        assignments: texts `a.b=c`; they win.
        budget: seconds with an optional unit.

    Raises:
        ConfigError: an unknown setting, or a value that is not allowed.
    """
    changes = {name: str(value) for name, value in values.items() if value is not None}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set needs a.b=c, got {assignment!r}. E.g. optim.sh_lr=0.01.")
        changes[name.strip()] = text.strip()
    for name in changes:
        if name in BATCH_DECIDES:
            raise ConfigError(f"--set {name} cannot be set here. Use the command's own options.")

    if start.seeds is not None and not 2 <= start.seeds <= MOST_SEEDS:
        raise ConfigError(f"--seeds must be 2 to {MOST_SEEDS}, got {start.seeds}.")
    if start.pick_at is not None and not 0.05 <= start.pick_at <= 0.95:
        raise ConfigError(f"--pick-at must be in [0.05, 0.95], got {start.pick_at:g}.")
    budget_s = None if budget is None else seconds(budget)
    if budget_s is not None and start.pick_at is not None:
        raise ConfigError("--budget compares seeds in rounds of its own. Drop --pick-at.")

    shared = replace(start, settings=tuple(sorted(changes.items())), budget_s=budget_s)
    config = item_config(Item("a prompt"), shared, Path("unused"))
    several = shared.seeds is not None or budget_s is not None
    if several and (not config.critic.enabled or config.critic.family == "server"):
        raise ConfigError(
            "--seeds and --budget compare scores of a critic with weights here, and there is none. Enable one."
        )
    return shared


def seconds(text: str) -> float:
    """Return a duration in seconds.

    Raises:
        ConfigError: it is none, or not above zero.

    Example:
        >>> seconds("30s"), seconds("2min")
        (30.0, 120.0)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    unit = UNITS_S.get(found[2]) if found else None
    if found is None or unit is None or float(found[1]) <= 0.0:
        raise ConfigError(f"--budget must be a time such as 30s, 2min or 1h, got {text[:40]!r}.")
    return float(found[1]) * unit


def run_list(
    prompts: PromptList,
    shared: Shared,
    where: Where,
    *,
    engine: str = "models",
    tries: int = 2,
    timeout_s: float = 600.0,
    retry_failed: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> BatchResult:
    """Make a list on this machine; see `run_batch`.

    Args:
        prompts: the list.
        shared: settings of all prompts.
        where: folder and workers.
        engine: what makes an asset.
        tries: how often an item may bring its worker down.
        timeout_s: silence after which a worker hangs.
        retry_failed: try again what failed earlier.
        as_json: events as JSON lines.
        quiet: print nothing.

    Raises:
        ConfigError: a device or number of workers that is not allowed, or as in `run_batch`.
    """
    driver = _driver(where, engine)
    out, store = _folder(where.out)
    with tempfile.TemporaryDirectory(prefix="vlm3d-gs-batch-") as here:
        job = Job(
            shared,
            Path(here) if store else out,
            engine,
            where.offline,
            timeout_s,
            tries,
            store,
        )
        return run_batch(
            prompts, job, driver, retry_failed=retry_failed, as_json=as_json, quiet=quiet
        )


def _folder(out: str | Path) -> tuple[Path, str]:
    """Return a batch's folder, and its URL where it is no folder of this machine.

    Raises:
        ConfigError: a URL of files that names another machine.
        MissingDependencyError: fsspec is not installed.
    """
    text = str(out)
    if "://" not in text:
        return Path(out), ""
    if text.startswith("file://"):
        path = text.removeprefix("file://")
        if not path.startswith("/"):
            raise ConfigError(f"--out {text} must name a folder of this machine: file:///FOLDER.")
        return Path(unquote(path)), ""
    if find_spec("fsspec") is None:
        raise MissingDependencyError(f"--out {text} needs fsspec: pip install 'vlm3d-gs[s3]'.")
    return Path(), text


def _driver(where: Where, engine: str) -> Driver:
    """Return what has items made where the user wants.

    Raises:
        ConfigError: no such device.
        MissingDependencyError: Ray is not installed.
    """
    if where.ray is None:
        return LocalDriver(places(where, dry=engine == "dry"))
    if find_spec("ray") is None:
        raise MissingDependencyError("--ray needs Ray: pip install 'vlm3d-gs[ray]'.")
    from vlm3d_gs.batch.cluster import RayDriver

    check_device(where.device)
    # Whether a node has a card is for the cluster to know; Ray shows each worker its own as the first.
    cuda = where.device.startswith("cuda")
    return RayDriver(
        where.ray,
        where.workers,
        where.threads or 1,
        where.gpus if cuda else 0.0,
        "cuda" if cuda else "cpu",
    )


def places(where: Where, *, dry: bool = False) -> list[Place]:
    """Return a place for each worker.

    On the CPU workers have one thread each, with which a prompt took 16.5 CPU seconds, and 28.9 by a single command on
    two threads; one worker of all threads was not measured (docs/log/batch.md). There are as many as cores, or as
    memory holds.

    Args:
        where: what the user wants.
        dry: no models, so no device is looked for.

    Raises:
        ConfigError: no such device.
    """
    check_device(where.device)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if dry:
        return [Place("cpu", where.threads or 1)] * (where.workers or cores)

    cards = _cards(where.device)
    if cards:
        count = where.workers or len(cards)
        return [Place(cards[n % len(cards)], where.threads or 0) for n in range(count)]

    count = where.workers or max(1, min(cores, _free_mib() // WORKER_MIB))
    return [Place("cpu", where.threads or max(1, cores // count))] * count


def _cards(device: str) -> list[str]:
    """Return the CUDA devices that a batch uses; none on the CPU."""
    if device == "cpu":
        return []
    if device.startswith("cuda:"):
        return [device]

    import torch

    from vlm3d_gs.assembly.device import choose_device

    if choose_device(device).type != "cuda":
        return []
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def _free_mib() -> int:
    """Return the memory that is free now, as far as the system says."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    except (OSError, ValueError, IndexError):
        pass
    return 1 << 30

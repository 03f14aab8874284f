"""`vlm3d-gs batch`: a list of prompts in, a folder of assets with a manifest out."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm3d_gs.cli import options
from vlm3d_gs.cli.terminal import expect_room
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.runs.interrupt import exit_code

Prompts = Annotated[
    str,
    typer.Argument(
        help="List of prompts: .txt, .jsonl, .csv or .parquet with the columns prompt, id, seed and any setting by "
        "its dotted name; - reads standard input."
    ),
]
Out = Annotated[
    str,
    typer.Option(
        help="Folder of the batch, or a URL of one (s3://BUCKET/FOLDER, gs://...); the same command goes on with it."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="Processes. Default: one a GPU, else one a core."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=256, help="Threads of each. Default on the CPU: 1.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Seconds an asset may take, e.g. 30s or 2min: as many seeds as they allow begin, the critic halves them."
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Workers on a Ray cluster: auto (that of this machine), local, or an address. Needs the extra `ray`; "
        "all nodes must see --out, so give a URL or a shared folder.",
    ),
]
Gpus = Annotated[
    float, typer.Option(min=0.01, max=16.0, help="GPUs of each worker with --ray; 0.5 shares one.")
]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Try again what failed earlier.")]
Tries = Annotated[
    int, typer.Option(min=1, max=10, help="How often a prompt may bring its worker down.")
]
Timeout = Annotated[
    float, typer.Option(min=1.0, help="Seconds after which a worker without a step hangs.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print events as JSON lines instead of a table.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Load no model and make a small text of each prompt.")
]


def batch(
    prompts: Prompts,
    out: Out,
    preset_name: options.Preset = "mini",
    recipe: options.Recipe = None,
    steps: options.Steps = None,
    no_critic: options.NoCritic = False,
    export: options.Export = None,
    settings: options.Settings = None,
    seeds: options.Seeds = None,
    pick: options.Pick = None,
    pick_at: options.PickAt = None,
    budget: Budget = None,
    workers: Workers = None,
    threads: Threads = None,
    device: options.Device = None,
    offline: options.Offline = False,
    ray: Ray = None,
    gpus: Gpus = 1.0,
    retry_failed: Retry = False,
    tries: Tries = 2,
    timeout: Timeout = 600.0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a splat of each prompt of a list; what is done is kept, and a crash costs one prompt."""
    from vlm3d_gs.batch.items import Shared
    from vlm3d_gs.batch.prompts import read_prompts
    from vlm3d_gs.batch.start import Where, run_list, shared_settings

    if seeds is None and (pick or pick_at is not None):
        raise ConfigError("--pick and --pick-at choose among --seeds. Add --seeds, or drop them.")
    expect_room()
    values = {
        "train.steps": steps,
        "critic.enabled": "false" if no_critic else None,
        "export.formats": export,
    }

    shared = shared_settings(
        Shared(preset=preset_name, recipe=recipe, seeds=seeds, pick_at=pick_at),
        values,
        settings or (),
        budget,
    )
    result = run_list(
        read_prompts(prompts, shared),
        shared,
        Where(out, device or "auto", workers, threads, offline, ray, gpus),
        engine="dry" if dry_run else "models",
        tries=tries,
        timeout_s=timeout,
        retry_failed=retry_failed,
        as_json=as_json,
        quiet=quiet,
    )

    if not (quiet or as_json):
        typer.echo(result.message, err=True)
    if result.signal is not None:
        raise typer.Exit(exit_code(result.signal))
    if result.failed:
        raise typer.Exit(1)

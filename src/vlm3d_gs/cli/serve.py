"""`vlm3d-gs serve`: prompts by HTTP, assets by URL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli import options
from vlm3d_gs.runs.interrupt import exit_code

Out = Annotated[Path, typer.Option(help="Folder of the assets; a later service goes on with it.")]
Host = Annotated[str, typer.Option(help="Address to listen at. Default: this machine only.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 is any free port.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the token that clients must show. Default: a random one, printed."
    ),
]
Waiting = Annotated[int, typer.Option("--queue", min=1, help="Prompts that may wait.")]
Rate = Annotated[
    float,
    typer.Option(min=0.0, help="Prompts a minute that a client may ask for; 0 is any number."),
]
MostSteps = Annotated[int, typer.Option(min=1, help="Steps that a client may ask for.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="Processes. Default: one a GPU, else one a core."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=256, help="Threads of each. Default on the CPU: 1.")
]
Timeout = Annotated[
    float, typer.Option(min=1.0, help="Seconds after which a worker without a step hangs.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Load no model and make a small text of each prompt.")
]


def serve(
    out: Out = Path("served"),
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_file: TokenFile = None,
    queue: Waiting = 1000,
    rate: Rate = 60.0,
    most_steps: MostSteps = 1000,
    preset_name: options.Preset = "mini",
    steps: options.Steps = None,
    no_critic: options.NoCritic = False,
    export: options.Export = None,
    settings: options.Settings = None,
    workers: Workers = None,
    threads: Threads = None,
    device: options.Device = None,
    offline: options.Offline = False,
    timeout: Timeout = 600.0,
    dry_run: DryRun = False,
) -> None:
    """Serve splats by HTTP: POST a prompt, follow its events, fetch its files."""
    from vlm3d_gs.batch.driver import Job
    from vlm3d_gs.batch.items import Shared
    from vlm3d_gs.batch.start import Where, places, shared_settings
    from vlm3d_gs.serve.run import Settings, read_token
    from vlm3d_gs.serve.run import serve as serve_until_stopped

    values = {
        "train.steps": steps,
        "critic.enabled": "false" if no_critic else None,
        "export.formats": export,
    }
    shared = shared_settings(Shared(preset=preset_name), values, settings or (), None)
    engine = "dry" if dry_run else "models"
    where = Where(out, device or "auto", workers, threads, offline)

    number = serve_until_stopped(
        Settings(out, host, port, read_token(token_file), queue, rate, most_steps),
        Job(shared, out, engine, offline, timeout),
        places(where, dry=dry_run),
        lambda line: typer.echo(line, err=True),
    )
    if number is not None:
        raise typer.Exit(exit_code(number))

"""`vlm3d-gs models`: list, fetch, check and export model weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="List, fetch, check and export model weights.")


@app.command("list")
def list_models() -> None:
    """List the known models: ids, licence, size, and where they are on this machine."""
    from vlm3d_gs.models.listing import listing

    typer.echo(listing())


@app.command("pull")
def pull(
    model: Annotated[str, typer.Argument(metavar="NAME|ID", help="A listed name, or a hub id.")],
    family: Annotated[
        str | None, typer.Option(help="For a hub id: a listed model of the same kind.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Look in the cache only.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the folder.")] = False,
) -> None:
    """Fetch a model's weights into the hub's cache and print their folder.

    Fetches one copy of each weight, as safetensors; never pickles or code.
    """
    from vlm3d_gs.models.listing import pull as fetch

    announce = None if quiet else lambda line: typer.echo(line, err=True)
    typer.echo(fetch(model, family, offline=offline, announce=announce))


@app.command("export")
def export(
    model: Annotated[
        str, typer.Argument(metavar="NAME|FOLDER", help="A listed name, or a pipeline's folder.")
    ],
    views: Annotated[
        int, typer.Option(min=1, max=16, help="Views that a multi-view model draws together.")
    ] = 4,
    size: Annotated[
        int | None, typer.Option(min=16, max=1024, help="Side of the images, pixels.")
    ] = None,
) -> None:
    """Write a diffusion model as graphs beside its weights, for runs on the CPU by ONNX Runtime.

    Such runs start seconds earlier. Takes minutes, once; needs the extra `export`.
    """
    from vlm3d_gs.models.listing import pull as fetch
    from vlm3d_gs.prior.export import export_prior

    folder = Path(model) if Path(model).is_dir() else fetch(model, offline=True)
    manifest = export_prior(folder, n_views=views, size_px=size)
    typer.echo(f"{', '.join(manifest.graphs)} -> {manifest.runtime_folder}")


@app.command("check")
def check(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|FOLDER]", help="Default: all listed models on this machine."),
    ] = None,
) -> None:
    """Check that the files are complete, without loading them. Exit code 2 means that they are not."""
    from vlm3d_gs.models.listing import check as check_weights

    for line in check_weights(model):
        typer.echo(line)

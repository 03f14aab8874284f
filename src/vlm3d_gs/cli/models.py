"""`vlm3d-gs models`: which weights there are, which are here, fetch them, check them."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="List, fetch and check model weights.")


@app.command("list")
def list_models() -> None:
    """Say which models are known: ids, licence, size, and where they are on this machine."""
    from vlm3d_gs.models.listing import listing

    typer.echo(listing())


@app.command("pull")
def pull(
    model: Annotated[str, typer.Argument(metavar="NAME|ID", help="A listed name, or a hub id.")],
    family: Annotated[
        str | None, typer.Option(help="For a hub id: the listed model of the same kind.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only look in the cache.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only say where the files are.")] = False,
) -> None:
    """Fetch a model's weights into the hub's cache, and print their folder.

    One copy of each weight, as safetensors; no pickles, no code.
    """
    from vlm3d_gs.models.listing import pull as fetch

    announce = None if quiet else lambda line: typer.echo(line, err=True)
    typer.echo(fetch(model, family, offline=offline, announce=announce))


@app.command("check")
def check(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FOLDER]", help="Default: all listed models that are on this machine."
        ),
    ] = None,
) -> None:
    """Check that the files are there and whole, without loading them. Exit code 2 says that they are not."""
    from vlm3d_gs.models.listing import check as check_weights

    for line in check_weights(model):
        typer.echo(line)

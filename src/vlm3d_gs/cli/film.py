"""`vlm3d-gs film`: how the scene of a run developed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli.options import OverwriteFile
from vlm3d_gs.core.files import expect_free


def film(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="What to write: .mp4, .gif or .webp. Default: RUN/film.mp4."
        ),
    ] = None,
    overwrite: OverwriteFile = False,
    seconds: Annotated[float, typer.Option(help="Duration of the film.")] = 6.0,
) -> None:
    """Make a film of a run from its previews; --set train.preview_every=0.02 writes more of them."""
    from vlm3d_gs.runs.record import default_output
    from vlm3d_gs.show.film import write_film

    out = out or default_output(run, "film.mp4")
    expect_free(out, overwrite=overwrite)
    count = write_film(run, out, seconds=seconds)
    typer.echo(f"written to {out}: {count} pictures")

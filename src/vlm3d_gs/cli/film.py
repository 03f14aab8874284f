"""`vlm3d-gs film`: how the scene of a run developed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def film(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="What to write: .mp4, .gif or .webp.")],
    seconds: Annotated[float, typer.Option(help="Duration of the film.")] = 6.0,
) -> None:
    """Make a film of a run from its previews; --set train.preview_every=0.02 writes more of them."""
    from vlm3d_gs.show.film import write_film

    count = write_film(run, out, seconds=seconds)
    typer.echo(f"written to {out}: {count} pictures")

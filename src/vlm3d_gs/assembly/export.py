"""Products: what a run leaves for other programs and for eyes. One file per format."""

from __future__ import annotations

from pathlib import Path

from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.registry import SPLAT_SUFFIXES, write_splat
from vlm3d_gs.show.page import write_page
from vlm3d_gs.show.sheet import write_sheet
from vlm3d_gs.show.turntable import render_turntable

__all__ = ["SUFFIXES", "export"]

SUFFIXES = (*SPLAT_SUFFIXES, ".html", ".mp4", ".gif", ".webp", ".png")


def export(gaussians: Gaussians, path: str | Path) -> None:
    """Write one product with its default settings; the suffix chooses the format.

    Splat formats are the splat itself, `.html` an offline page that shows it, `.mp4`, `.gif` and `.webp` are
    turntables, `.png` is a labelled sheet.

    Args:
        gaussians: the scene.
        path: the file; replaced if it exists.

    Raises:
        ExportError: unknown suffix (the known ones are listed), or the scene cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix in SPLAT_SUFFIXES:
        write_splat(gaussians, path)
    elif suffix == ".html":
        write_page(gaussians, path, name=Path(path).stem)
    elif suffix in (".mp4", ".gif", ".webp"):
        render_turntable(gaussians, path)
    elif suffix == ".png":
        write_sheet(gaussians, path)
    else:
        raise ExportError(
            f"Cannot export to {Path(path).name!r}: unknown suffix {suffix!r}. "
            f"Known: {', '.join(SUFFIXES)}."
        )

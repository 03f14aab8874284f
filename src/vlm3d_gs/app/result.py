"""What `vlm3d_gs.generate` returns: a finished run, to look at and to save."""

from __future__ import annotations

import base64
import sys
import tempfile
import webbrowser
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from vlm3d_gs.config import Config
from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.files import expect_free
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.formats.registry import SPLAT_SUFFIXES
from vlm3d_gs.pipeline import GenerateResult
from vlm3d_gs.runs.record import read_record
from vlm3d_gs.show.page import write_page
from vlm3d_gs.show.sheet import write_sheet
from vlm3d_gs.show.turntable import render_turntable
from vlm3d_gs.show.video import VIDEO_SUFFIXES

MESH_SUFFIXES = (".obj", ".stl")
"""Suffixes that can only mean a mesh; .ply and .glb are splats unless a mesh is asked for."""


@dataclass(frozen=True, repr=False, kw_only=True)
class Result(GenerateResult):
    """A finished run. In a notebook, the last value of a cell shows the turntable."""

    config: Config
    """The resolved settings."""

    @classmethod
    def of(cls, made: GenerateResult, config: Config) -> Self:
        """Return what a run made, with its settings."""
        values: dict[str, Any] = {item.name: getattr(made, item.name) for item in fields(made)}
        return cls(**values, config=config)

    @property
    def scene(self) -> Gaussians:
        """The splat, on the CPU."""
        return self.gaussians

    @property
    def folder(self) -> Path:
        """The run's folder, with everything that decided the run."""
        return self.out

    def save(self, path: str | Path, *, mesh: bool = False, overwrite: bool = False) -> Path:
        """Write the scene; the suffix chooses the format.

        Args:
            path: .ply, .spz, .sog, .splat, .glb, .usdc for a splat; .obj, .stl, and .glb or .ply with `mesh` for a
                closed mesh; .html for an offline page; .mp4, .gif, .webp for a turntable; .png for a sheet of views.
            mesh: write a mesh where the suffix could also mean a splat.
            overwrite: replace a file that is there.

        Returns:
            The path.

        Raises:
            ExportError: another suffix, the file exists, or its folder does not; for a mesh, the scene is not solid.
        """
        target = Path(path)
        suffix = target.suffix.lower()
        expect_free(target, overwrite=overwrite)

        if mesh or suffix in MESH_SUFFIXES:
            self._save_mesh(target, overwrite)
        elif suffix == ".html":
            write_page(self.scene, target, name=self.config.prompt, record=read_record(self.folder))
        elif suffix in VIDEO_SUFFIXES:
            export = self.config.export
            render_turntable(
                self.scene,
                target,
                seconds=export.turntable_s,
                fps=export.turntable_fps,
                size_px=export.turntable_px,
                elevation_deg=export.elevation_deg,
            )
        elif suffix == ".png":
            write_sheet(self.scene, target)
        elif any(target.name.lower().endswith(known) for known in SPLAT_SUFFIXES):
            write_splat(self.scene, target)
        else:
            known = ", ".join((*SPLAT_SUFFIXES, *MESH_SUFFIXES, ".html", *VIDEO_SUFFIXES, ".png"))
            raise ExportError(f"Cannot save {target.name!r}: the name must end in one of {known}.")
        return target

    def show(self) -> None:
        """Show the turntable in a notebook; elsewhere open an offline page in the browser."""
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython is not None else None
        if ipython is not None and getattr(shell, "kernel", None) is not None:
            ipython.display.display(ipython.display.HTML(self._repr_html_()))
            return
        page = self.folder / "scene.html"
        if not page.is_file():
            self.save(page)
        webbrowser.open(page.resolve().as_uri())

    def __repr__(self) -> str:
        answers = ", ".join(f"{item.name} {item}" for item in self.answers)
        return (
            f"Result({self.config.prompt!r}: {self.scene!r} in {self.folder}"
            f"{f'; {answers}' if answers else ''})"
        )

    def _repr_html_(self) -> str:
        """Return the turntable as HTML that needs no file; notebooks call this."""
        film = self.folder / "turntable.mp4"
        if film.is_file():
            return _video(film.read_bytes())
        with tempfile.TemporaryDirectory(prefix="vlm3d-gs-") as room:
            return _video(self.save(Path(room) / "turntable.mp4").read_bytes())

    def _save_mesh(self, target: Path, overwrite: bool) -> None:
        # SciPy, scikit-image and Numba's kernels of the mesh take a second to load.
        from vlm3d_gs.mesh import extract_mesh, write_mesh
        from vlm3d_gs.mesh.writers import files_of, mesh_format

        color = mesh_format(target).color
        for file in files_of(target):
            expect_free(file, overwrite=overwrite)
        write_mesh(extract_mesh(self.scene, color=color), target)


def _video(mp4: bytes) -> str:
    data = base64.b64encode(mp4).decode("ascii")
    return f'<video autoplay loop muted playsinline src="data:video/mp4;base64,{data}"></video>'

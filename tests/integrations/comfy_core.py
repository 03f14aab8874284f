"""What our nodes use of ComfyUI's core, reduced to its contract, for machines without ComfyUI.

Written from how the core's own nodes for splats and files use it (ComfyUI 0.28); `test_comfyui.py` loads the real core
instead where VLM3D_GS_COMFYUI names its folder.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class Socket:
    """An input or output of a node: its type, its id, and what else was said of it."""

    def __init__(self, kind: str, name: str = "", **said: Any) -> None:
        self.kind, self.name, self.said = kind, name, said


class _Type:
    """A type of the core, as `IO.Splat`: makes inputs and outputs."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def Input(self, name: str, **said: Any) -> Socket:
        return Socket(self._kind, name, **said)

    def Output(self, **said: Any) -> Socket:
        return Socket(self._kind, **said)


class NodeOutput:
    def __init__(self, *values: Any, ui: Any = None) -> None:
        self.values, self.ui = values, ui


class Splat:
    def __init__(
        self,
        positions: torch.Tensor,
        scales: torch.Tensor,
        rotations: torch.Tensor,
        opacities: torch.Tensor,
        sh: torch.Tensor,
        counts: torch.Tensor | None = None,
    ) -> None:
        self.positions, self.scales, self.rotations = positions, scales, rotations
        self.opacities, self.sh, self.counts = opacities, sh, counts


class File3D:
    def __init__(self, source: BytesIO, file_format: str) -> None:
        self.content, self.format = source.getvalue(), file_format


class Interrupted(Exception):
    """The user pressed Cancel."""


class Core:
    """The modules, and what a test looks at or sets."""

    def __init__(self, root: Path) -> None:
        self.root, self.cancelled, self.bar = root, False, list[tuple[int, int, Any]]()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the modules where our nodes import them."""
        latest = ModuleType("comfy_api.latest")
        kinds = ("String", "Combo", "Int", "Float", "Boolean", "Image", "Splat", "File3DAny")
        latest.IO = SimpleNamespace(
            ComfyNode=object,
            Schema=SimpleNamespace,
            NodeOutput=NodeOutput,
            UploadType=SimpleNamespace(model="file_upload"),
            **{kind: _Type(kind) for kind in kinds},
        )
        latest.Types = SimpleNamespace(SPLAT=Splat, File3D=File3D)
        latest.ComfyExtension = object

        folders = ModuleType("folder_paths")
        for kind in ("input", "output", "temp"):
            setattr(folders, f"get_{kind}_directory", lambda kind=kind: str(self.root / kind))
        folders.get_annotated_filepath = lambda name: str(self.root / "input" / name)
        folders.exists_annotated_filepath = lambda name: (self.root / "input" / name).is_file()
        folders.get_save_image_path = self._save_path

        management, numbers = ModuleType("comfy.model_management"), ModuleType("comfy.utils")
        management.unload_all_models = lambda: None
        management.processing_interrupted = lambda: self.cancelled
        management.throw_exception_if_processing_interrupted = self._throw
        numbers.ProgressBar = self._progress_bar

        comfy = ModuleType("comfy")
        comfy.model_management, comfy.utils = management, numbers
        for module in (latest, folders, management, numbers, comfy, ModuleType("comfy_api")):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    def _save_path(self, prefix: str, folder: str) -> tuple[str, str, int, str, str]:
        whole = Path(folder) / prefix
        whole.parent.mkdir(parents=True, exist_ok=True)
        return str(whole.parent), whole.name, 1, str(Path(prefix).parent), prefix

    def _throw(self) -> None:
        if self.cancelled:
            raise Interrupted

    def _progress_bar(self, total: int) -> Any:
        return SimpleNamespace(
            update_absolute=lambda value, total, preview: self.bar.append((value, total, preview))
        )

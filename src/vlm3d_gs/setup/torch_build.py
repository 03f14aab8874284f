"""The torch of this environment, read from its files: importing it would take longer than all the rest."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vlm3d_gs.core.errors import MissingDependencyError

CXX_17 = "201703"
"""`__cplusplus` of C++17, which gsplat asks for by itself."""


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """What decides how an extension for torch is compiled."""

    version: str
    """Such as 2.11.0+cu130."""
    cuda: str | None
    """CUDA's version, such as 13.0; None for a build without."""
    folder: Path
    """Of the package."""

    @property
    def cuda_major(self) -> int:
        """The first number of CUDA's version; 0 without CUDA."""
        return int((self.cuda or "0").split(".")[0])

    @property
    def nvidia(self) -> Path:
        """Where the packages of CUDA's libraries and headers that torch asks for are unpacked."""
        return self.folder.parent / "nvidia" / f"cu{self.cuda_major}"

    def wants_cxx20(self) -> bool:
        """Return whether torch's headers refuse C++17."""
        header = self.folder / "include/torch/csrc/api/include/torch/all.h"
        wanted = (
            re.search(r"__cplusplus < (\d+)L", header.read_text()) if header.is_file() else None
        )
        return wanted is not None and wanted.group(1) > CXX_17


def find_torch() -> TorchBuild:
    """Return the torch that this Python would import.

    Raises:
        MissingDependencyError: there is none.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("torch is not installed. Run: pip install torch.")

    folder = Path(spec.origin).parent
    facts: dict[str, object] = {}
    for line in ast.parse((folder / "version.py").read_text()).body:
        targets = line.targets if isinstance(line, ast.Assign) else []
        if isinstance(line, ast.AnnAssign):
            targets = [line.target]
        value = getattr(line, "value", None)
        if isinstance(value, ast.Constant):
            facts.update(
                {target.id: value.value for target in targets if isinstance(target, ast.Name)}
            )

    cuda = facts.get("cuda")
    return TorchBuild(str(facts["__version__"]), None if cuda is None else str(cuda), folder)

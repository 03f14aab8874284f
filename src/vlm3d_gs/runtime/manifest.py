"""What an export has written beside a model's weights: graphs, where their weights are, and what both were made from.

A model folder with graphs has a folder `runtime`:

    runtime/manifest.json      this file's subject
    runtime/NAME.onnx          operations only
    runtime/*.safetensors      tensors that the model's own files do not hold as the graphs need them

The weights of a graph stay in the .safetensors that torch reads, so nothing is stored twice. The manifest holds their
hash: graphs of other weights are refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import ConfigError, InputFileError

FOLDER = "runtime"
"""Inside a model's folder."""
MANIFEST = "manifest.json"
FORMAT = 1
"""Of the manifest and of what the graphs take and return; another number is refused."""


@dataclass(frozen=True)
class GraphEntry:
    """One graph."""

    file: str
    """Its name in the runtime folder."""
    inputs: tuple[str, ...]
    """Names of its inputs, in order."""
    weights: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """File, relative to the model's folder -> names of the tensors that the graph reads from it."""


@dataclass(frozen=True)
class Manifest:
    """The graphs of a model."""

    folder: Path
    """The model's folder."""
    graphs: dict[str, GraphEntry]
    """By name."""
    sources: dict[str, str]
    """File of weights, relative to the model's folder -> its SHA-256."""
    facts: dict[str, Any]
    """What a caller must know beside the graphs, such as sizes; plain JSON."""
    made_with: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that defined and exported the networks."""

    @property
    def runtime_folder(self) -> Path:
        """Where the graphs are."""
        return self.folder / FOLDER

    def stale(self) -> str | None:
        """Return the first file of weights that is not the one that was exported; None if all are."""
        for name, expected in self.sources.items():
            path = self.folder / name
            if not path.is_file() or sha256(path) != expected:
                return name
        return None

    def write(self) -> None:
        """Write the manifest into the runtime folder."""
        content = {
            "format": FORMAT,
            "facts": self.facts,
            "sources": self.sources,
            "graphs": {name: asdict(entry) for name, entry in self.graphs.items()},
            "made_with": self.made_with,
        }
        text = json.dumps(content, indent=1) + "\n"
        (self.runtime_folder / MANIFEST).write_text(text, encoding="utf-8")


def has_graphs(folder: Path) -> bool:
    """Return whether a model's folder has exported graphs."""
    return (folder / FOLDER / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a model's folder.

    Raises:
        ConfigError: the model has no graphs, or graphs of another format.
        InputFileError: the manifest is damaged.
    """
    path = folder / FOLDER / MANIFEST
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no exported graphs. Make them by `vlm3d-gs models export {folder}`, or set the model's "
            "runtime to torch."
        )

    again = f"Export the graphs again: `vlm3d-gs models export {folder}`."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format"]
        graphs = {
            name: GraphEntry(
                entry["file"],
                tuple(entry["inputs"]),
                {source: tuple(names) for source, names in entry["weights"].items()},
            )
            for name, entry in content["graphs"].items()
        }
        manifest = Manifest(
            folder, graphs, dict(content["sources"]), dict(content["facts"]), content["made_with"]
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputFileError(f"{path} cannot be read ({error!r}). {again}") from error

    if version != FORMAT:
        raise ConfigError(
            f"The graphs in {path.parent} have format {version}, this version reads {FORMAT}. {again}"
        )
    return manifest


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

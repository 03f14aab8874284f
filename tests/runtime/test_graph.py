"""Graphs of small modules: values, gradients, free sizes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vlm3d_gs.core.errors import ConfigError, InputFileError, ModelError
from vlm3d_gs.runtime.export import Exporter, Function
from vlm3d_gs.runtime.graph import Graph, differentiable
from vlm3d_gs.runtime.manifest import FOLDER, MANIFEST, Manifest, has_graphs, read_manifest


class Small(nn.Module):
    """A strided and a plain convolution with something smooth between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.second = nn.Conv2d(6, 4, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(images)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Small]:
    """A folder with weights in half precision, and graphs of the module that they are of."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    module = Small().half().float().requires_grad_(False).eval()
    save_file(
        {f"net.{k}": v.half() for k, v in module.state_dict().items()}, folder / "w.safetensors"
    )

    exporter = Exporter(folder, ["w.safetensors"])
    function = Function(module, {"images": torch.randn(2, 3, 8, 8)}, {"images": (0,)})
    exporter.add("small", function)
    exporter.add_pullback("small_pullback", function)
    exporter.finish({"kind": "test"})
    return folder, module


@pytest.mark.parametrize("count", [1, 2, 5])
def test_values_and_gradients_are_those_of_the_module(
    exported: tuple[Path, Small], count: int, generator: torch.Generator
) -> None:
    folder, module = exported
    manifest = read_manifest(folder)
    graph, pullback = Graph(manifest, "small"), Graph(manifest, "small_pullback")

    ours = torch.randn(count, 3, 8, 8, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    weights = torch.randn(count, 4, 4, 4, generator=generator)
    output, expected = differentiable(graph, pullback, ours), module(theirs)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)

    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert theirs.grad.abs().max() > 0.1
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_no_weight_is_stored_twice(exported: tuple[Path, Small]) -> None:
    folder, _ = exported
    assert sorted(path.name for path in (folder / FOLDER).iterdir()) == [
        MANIFEST,
        "small.onnx",
        "small_pullback.onnx",
    ]
    entry = read_manifest(folder).graphs["small"]
    assert set(entry.weights) == {"w.safetensors"}
    assert "net.first.weight" in entry.weights["w.safetensors"]


def test_what_no_file_holds_is_stored_beside_the_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Linear(100, 100).requires_grad_(False).eval()
    save_file({"other": torch.zeros(3)}, tmp_path / "w.safetensors")
    exporter = Exporter(tmp_path, ["w.safetensors"])
    exporter.add("linear", Function(module, {"x": torch.randn(2, 100)}, {"x": (0,)}))
    assert (tmp_path / FOLDER / "linear.safetensors").is_file()
    assert set(exporter.graphs["linear"].weights) == {f"{FOLDER}/linear.safetensors"}


def test_changed_weights_are_noticed(exported: tuple[Path, Small], tmp_path: Path) -> None:
    folder, module = exported
    manifest = read_manifest(folder)
    assert manifest.stale() is None

    changed = {f"net.{k}": v.half() + 1 for k, v in module.state_dict().items()}
    save_file(changed, tmp_path / "w.safetensors")
    moved = Manifest(tmp_path, manifest.graphs, manifest.sources, manifest.facts)
    assert moved.stale() == "w.safetensors"


def test_a_graph_that_differs_from_its_module_is_refused(tmp_path: Path) -> None:
    class Moody(nn.Module):
        """Computes something else when it is traced."""

        def forward(self, x: Tensor) -> Tensor:
            return x * (3.0 if torch.compiler.is_exporting() else 2.0)

    save_file({"none": torch.zeros(1)}, tmp_path / "w.safetensors")
    exporter = Exporter(tmp_path, ["w.safetensors"])
    with pytest.raises(ModelError, match="differs from its network"):
        exporter.add("moody", Function(Moody().eval(), {"x": torch.randn(2, 3)}, {"x": (0,)}))


def test_a_folder_without_graphs_says_how_to_make_them(tmp_path: Path) -> None:
    assert not has_graphs(tmp_path)
    with pytest.raises(ConfigError, match="vlm3d-gs models export"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', "\x00"])
def test_a_damaged_manifest_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / MANIFEST).write_text(text)
    with pytest.raises(InputFileError, match="Export the graphs again"):
        read_manifest(tmp_path)


def test_another_format_is_refused(exported: tuple[Path, Small], tmp_path: Path) -> None:
    folder, _ = exported
    content = json.loads((folder / FOLDER / MANIFEST).read_text())
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / MANIFEST).write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(ConfigError, match="format 99"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "absent", "other"])
def test_a_damaged_graph_is_refused(
    exported: tuple[Path, Small], damage: str, tmp_path: Path
) -> None:
    folder, _ = exported
    manifest = read_manifest(folder)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / "w.safetensors").write_bytes((folder / "w.safetensors").read_bytes())
    content = (folder / FOLDER / "small.onnx").read_bytes()
    target = tmp_path / FOLDER / "small.onnx"
    if damage == "cut":
        target.write_bytes(content[: len(content) // 2])
    elif damage == "other":
        target.write_bytes(b"not a graph")

    with pytest.raises(InputFileError, match="cannot be loaded"):
        Graph(Manifest(tmp_path, manifest.graphs, {}, {}), "small")

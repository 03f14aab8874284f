"""From modules of torch to graphs: traced with free sizes, weights left in the files that hold them, and checked.

Needs the packages of the extra `export` (onnx, onnxscript). What a graph computes is torch's own trace of the module;
no operation is written by hand, except that the gradient of a convolution with frozen weights is a transposed one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlm3d_gs.core.errors import MissingDependencyError, ModelError
from vlm3d_gs.runtime.graph import Graph
from vlm3d_gs.runtime.manifest import FOLDER, GraphEntry, Manifest, sha256

INLINE_LIMIT = 4096
"""Constants of at most as many numbers stay in the graph's own file."""
TOLERANCE = 2e-4
"""Largest allowed difference between a graph and the module it was made from, relative to the largest output."""
PACKAGES = ("torch", "onnx", "onnxscript")


@dataclass(frozen=True)
class Function:
    """What becomes one graph."""

    module: nn.Module
    """Frozen, float32; its `forward` takes tensors and returns one."""
    inputs: Mapping[str, Tensor]
    """Examples by name, in the order of `forward`."""
    free: Mapping[str, Sequence[int]]
    """Name of an input -> its dimensions whose size may differ from the example's."""
    multiple: int = 1
    """Free sizes are multiples of this."""


class Exporter:
    """Writes the graphs of one model's folder."""

    def __init__(self, folder: Path, sources: Sequence[str]) -> None:
        """Read what the files of weights hold.

        Args:
            folder: of the model.
            sources: its .safetensors, relative to it.

        Raises:
            MissingDependencyError: the packages that write graphs are not installed.
        """
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError(
                f"Exporting needs the package {error.name}. Install: pip install 'vlm3d-gs[export]'"
            ) from error

        self.folder, self.sources = folder, tuple(sources)
        self.graphs: dict[str, GraphEntry] = {}
        self._stored = {source: _fingerprints(folder / source) for source in sources}
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)

    def add(self, name: str, function: Function) -> None:
        """Write a graph, and compare it with its module on the example and on one of twice the size.

        Raises:
            ModelError: the graph computes something else than the module.
        """
        with _quiet():
            program = torch.export.export(
                function.module,
                tuple(function.inputs.values()),
                dynamic_shapes=_dynamic_shapes(function),
                strict=False,
            )
            self._write(name, program, function)
        self._check(name, function)

    def add_pullback(self, name: str, function: Function, output_name: str = "gradient") -> None:
        """Write the graph of (input, gradient on the output) -> gradient on the input, for a function of one tensor.

        The graph takes one row at a time: a trace of a backward pass with a free size takes minutes.
        """
        ((input_name, examples),) = function.inputs.items()
        example = examples[:1]
        with torch.no_grad():
            gradient = torch.randn_like(function.module(example))

        module = _traced_pullback(function.module, example, gradient)
        self.add(name, Function(module, {input_name: example, output_name: gradient}, {}))

    def finish(self, facts: dict[str, Any], packages: Sequence[str] = ()) -> Manifest:
        """Write the manifest.

        Args:
            facts: what a caller must know beside the graphs.
            packages: that defined the networks, beside those that exported them.
        """
        used = dict.fromkeys(source for entry in self.graphs.values() for source in entry.weights)
        manifest = Manifest(
            self.folder,
            self.graphs,
            {source: sha256(self.folder / source) for source in used},
            facts,
            {package: version(package) for package in (*PACKAGES, *packages)},
        )
        manifest.write()
        return manifest

    def _write(self, name: str, program: Any, function: Function) -> None:
        import onnx

        exported = torch.onnx.export(
            program,
            tuple(function.inputs.values()),
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=list(function.inputs),
            output_names=["output"],
        )
        assert exported is not None
        graph = exported.model_proto

        weights = self._move_weights_out(name, graph.graph)
        for node in graph.graph.node:
            node.ClearField(
                "metadata_props"
            )  # the stack of each operation: nine tenths of the file
            node.ClearField("doc_string")
        for field in ("value_info", "metadata_props"):
            graph.graph.ClearField(field)
        graph.ClearField("metadata_props")

        onnx.save(graph, self.folder / FOLDER / f"{name}.onnx")
        self.graphs[name] = GraphEntry(f"{name}.onnx", tuple(function.inputs), weights)

    def _move_weights_out(self, name: str, graph: Any) -> dict[str, tuple[str, ...]]:
        """Name the graph's large constants as the files of weights do, and take their values out; in place."""
        import onnx
        from onnx.numpy_helper import to_array

        names: dict[str, str] = {}
        weights: dict[str, list[str]] = {}
        rest: dict[str, Tensor] = {}
        for constant in graph.initializer:
            values = to_array(constant)
            found = self._find(values)
            if found is None and values.size <= INLINE_LIMIT:
                continue
            if found is None:
                found = (f"{FOLDER}/{name}.safetensors", constant.name)
                rest[constant.name] = torch.from_numpy(values.copy())

            source, key = found
            names[constant.name] = key
            if key not in weights.setdefault(source, []):
                weights[source].append(key)

        kept = [constant for constant in graph.initializer if constant.name not in names]
        moved = {names[each.name]: each for each in graph.initializer if each.name in names}
        for key, constant in moved.items():
            constant.name = key
            constant.ClearField("raw_data")
            constant.data_location = onnx.TensorProto.EXTERNAL
            constant.external_data.add(key="location", value="weights")
        del graph.initializer[:]
        graph.initializer.extend([*kept, *moved.values()])
        for node in graph.node:
            node.input[:] = [names.get(each, each) for each in node.input]

        if rest:
            save_file(rest, self.folder / FOLDER / f"{name}.safetensors")
        return {source: tuple(keys) for source, keys in weights.items()}

    def _find(self, values: np.ndarray) -> tuple[str, str] | None:
        """Return file and name of the stored tensor that has these values in float32; None if there is none."""
        if values.dtype != np.float32:
            return None
        key = _fingerprint(values)
        for source, stored in self._stored.items():
            if key in stored:
                return source, stored[key]
        return None

    def _check(self, name: str, function: Function) -> None:
        """Run the written graph beside its module, on the example and on one of another size."""
        manifest = Manifest(self.folder, self.graphs, {}, {})
        graph = Graph(manifest, name)

        examples = tuple(function.inputs.values())
        larger = [
            torch.cat([tensor] * 2, dim)
            if (dim := next(iter(function.free.get(key, ())), None)) is not None
            else tensor
            for key, tensor in function.inputs.items()
        ]
        for inputs in (examples, larger):
            with torch.no_grad():
                expected = function.module(*inputs)
            error = float((graph(*inputs) - expected).abs().max() / expected.abs().max())
            if not error <= TOLERANCE:
                raise ModelError(
                    f"The graph {name!r} differs from its network by {error:.1e} of the largest output "
                    f"(at most {TOLERANCE:.0e} is allowed); do not use it. Try other versions of torch and onnxscript."
                )


def _traced_pullback(module: nn.Module, example: Tensor, gradient: Tensor) -> nn.Module:
    """Return the pullback of a module as a module: torch's trace of its forward and backward pass."""
    names = [name for name, _ in module.named_parameters()]

    def pullback(weights: list[Tensor], inputs: Tensor, gradient: Tensor) -> Tensor:
        leaf = inputs.detach().requires_grad_()
        named = dict(zip(names, weights, strict=True))
        output = torch.func.functional_call(module, named, (leaf,))
        (pulled,) = torch.autograd.grad(output, leaf, gradient)
        return pulled

    table = dict(core_aten_decompositions())
    table[torch.ops.aten.convolution_backward.default] = _convolution_backward
    table[torch.ops.aten.upsample_nearest2d_backward.default] = _upsample_backward
    weights = [parameter.detach() for parameter in module.parameters()]
    trace: Callable[..., Any] = make_fx(
        pullback,
        decomposition_table=table,
    )
    # The backward pass of torch's fused attention is an operation of its own, which no graph has.
    with sdpa_kernel(SDPBackend.MATH):
        traced = trace(weights, example, gradient)

    class Pullback(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.traced = module, traced

        def forward(self, inputs: Tensor, gradient: Tensor) -> Tensor:
            pulled: Tensor = self.traced(list(self.module.parameters()), inputs, gradient)
            return pulled

    return Pullback().eval()


def _convolution_backward(  # noqa: PLR0917 - the operator's own signature
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor,
    bias_sizes: object,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: object,
    groups: int,
    wanted: object,
) -> tuple[Tensor, None, None]:
    """Return the gradient on the inputs of a 2D convolution with frozen weights: a transposed convolution."""
    if transposed or weight.ndim != 4:
        raise ModelError("Only plain 2D convolutions can be exported with their gradient.")

    # Of the input sizes that lead to this output size, the one that it had.
    lost = [
        inputs.shape[2 + i]
        - (
            (gradient.shape[2 + i] - 1) * stride[i]
            - 2 * padding[i]
            + dilation[i] * (weight.shape[2 + i] - 1)
            + 1
        )
        for i in range(2)
    ]
    pulled = F.conv_transpose2d(gradient, weight, None, stride, padding, lost, groups, dilation)
    return pulled, None, None


def _upsample_backward(
    gradient: Tensor, output_size: Sequence[int], input_size: Sequence[int], *_: object
) -> Tensor:
    """Return the gradient on the input of a nearest-neighbour enlargement by whole factors: sums over blocks."""
    height, width = input_size[-2:]
    rows, columns = output_size[0] // height, output_size[1] // width
    if (rows * height, columns * width) != tuple(output_size):
        raise ModelError("Only enlargements by whole factors can be exported with their gradient.")

    blocks = gradient.reshape(*input_size[:2], height, rows, width, columns)
    return blocks.sum((3, 5))


def _dynamic_shapes(function: Function) -> tuple[dict[int, Any], ...]:
    """Return which dimensions are free, all of one size: a multiple of `function.multiple`."""
    # Diffusers branches at 64 images, only to make memory contiguous: the graph is right for more, too.
    size: Any = torch.export.Dim("count", min=1, max=63 // function.multiple)
    if function.multiple > 1:
        size = function.multiple * size
    return tuple(dict.fromkeys(function.free.get(name, ()), size) for name in function.inputs)


def _fingerprint(values: np.ndarray) -> tuple[tuple[int, ...], int]:
    return values.shape, hash(np.ascontiguousarray(values).tobytes())


def _fingerprints(path: Path) -> dict[tuple[tuple[int, ...], int], str]:
    """Return the names of a file's tensors by the fingerprint of their values in float32."""
    with safe_open(path, "pt") as file:
        return {_fingerprint(file.get_tensor(key).float().numpy()): key for key in file.keys()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own progress and its warnings about its internals from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

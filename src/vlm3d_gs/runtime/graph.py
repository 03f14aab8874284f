"""A network as a function of tensors that ONNX Runtime computes on the CPU, and the gradient of such a function.

ONNX Runtime and not OpenVINO: half the download, every platform, loaded in a fifth of a second; on two cores without
bfloat16 the embedded prior's network takes 1.05 times as long (docs/log/runtime.md).
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_errors
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.runtime.manifest import Manifest

LOADING_ERRORS = (
    *(OSError, RuntimeError, ValueError, SafetensorError),
    *(onnx_errors.Fail, onnx_errors.InvalidGraph, onnx_errors.InvalidProtobuf),
    *(onnx_errors.NoSuchFile, onnx_errors.InvalidArgument, onnx_errors.NotImplemented),
    onnx_errors.RuntimeException,
)
"""What a damaged file may raise; those of the runtime have no common class below Exception."""


class Graph:
    """An exported graph with its weights, ready to run; float32 arithmetic, the same result for the same threads."""

    def __init__(self, manifest: Manifest, name: str, threads: int | None = None) -> None:
        """Load a graph.

        Args:
            manifest: of the model's folder.
            name: of the graph in it.
            threads: of its arithmetic; None is torch's number.

        Raises:
            InputFileError: a file cannot be read, or graph and weights do not fit.
        """
        entry = manifest.graphs[name]
        path = manifest.runtime_folder / entry.file
        self.inputs = entry.inputs

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are about what it could not fold
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # A waiting thread that spins takes the core that our renderer needs between two calls.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")

        try:
            weights = _read_weights(manifest, name)
            if weights:
                values = [onnxruntime.OrtValue.ortvalue_from_numpy(w) for w in weights.values()]
                options.add_external_initializers(list(weights), values)
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except LOADING_ERRORS as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputFileError(
                f"The graph {path} cannot be loaded: {reason} Export it again: "
                f"`vlm3d-gs models export {manifest.folder}`."
            ) from error
        (self._output,) = (output.name for output in self._session.get_outputs())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the graph's output for its inputs, in the order of `inputs`; without gradient."""
        arrays = (tensor.detach().contiguous().numpy() for tensor in inputs)
        feed = dict(zip(self.inputs, arrays, strict=True))
        (output,) = self._session.run([self._output], feed)
        return torch.from_numpy(output)


def differentiable(graph: Graph, pullback: Graph, inputs: Tensor) -> Tensor:
    """Return a graph's output for one input, with a gradient.

    Args:
        graph: f, a function of one tensor.
        pullback: the graph of (inputs, gradient on f's output) -> gradient on the inputs, for one row; it computes f
            again.
        inputs: x, whose rows f takes one by one, as an encoder takes images.

    Returns:
        f(x), on the graph of x. Differentiable once.
    """
    output: Tensor = _WithPullback.apply(inputs, graph, pullback)
    return output


class _WithPullback(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: Tensor, graph: Graph, pullback: Graph) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(inputs)
        ctx.pullback = pullback
        return graph(inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        (inputs,) = ctx.saved_tensors
        rows = zip(inputs.split(1), gradient.split(1), strict=True)
        return torch.cat([ctx.pullback(*row) for row in rows]), None, None


def _read_weights(manifest: Manifest, name: str) -> dict[str, np.ndarray]:
    """Return a graph's weights by name, float32."""
    weights: dict[str, np.ndarray] = {}
    for source, names in manifest.graphs[name].weights.items():
        with safe_open(manifest.folder / source, "pt") as file:
            weights |= {key: file.get_tensor(key).float().numpy() for key in names}
    return weights

"""Exported graphs as a `Denoiser`: forward passes on the CPU, nothing of diffusers or transformers.

The graphs and what they were made from are described in `runtime.manifest`; `prior.export` writes them. The encoder and
the decoder have a gradient, by graphs of their own; the denoising network has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.core.residency import Plan
from vlm3d_gs.prior.denoiser import TextEmbedding
from vlm3d_gs.prior.noise import NoiseSchedule
from vlm3d_gs.runtime.graph import Graph, differentiable
from vlm3d_gs.runtime.manifest import Manifest, read_manifest

KIND = "prior"
"""In the manifest's facts."""
NOISE_SCHEDULE = "noise_schedule.safetensors"
TOKENIZER = "tokenizer.json"
"""Files in the runtime folder, beside the graphs."""


class GraphDenoiser:
    """The graphs of a pipeline that a run needs at every step."""

    device = torch.device("cpu")
    plan: Plan = "full"
    runtime = "onnx"

    def __init__(self, manifest: Manifest, n_views: int = 1) -> None:
        """Load the graphs.

        Args:
            manifest: of a prior.
            n_views: of the group that a multi-view network denoises together; see `join_views`.

        Raises:
            ConfigError: the manifest is of something else.
            InputFileError: a file cannot be read.
        """
        facts = manifest.facts
        if facts.get("kind") != KIND:
            raise ConfigError(
                f"The graphs in {manifest.runtime_folder} are of a {facts.get('kind')!r}, not of a diffusion "
                "prior. Give the folder of a pipeline."
            )

        self.manifest = manifest
        self.is_multiview = bool(facts["is_multiview"])
        self.latent_factor, self.size_px = int(facts["latent_factor"]), int(facts["size_px"])
        self.noise_schedule = _load_noise_schedule(manifest)
        self._free_batch = bool(facts["free_batch"])

        # Loading is mostly the runtime's own work, which several threads can do at once.
        self._n_views = n_views if self.is_multiview else 1
        names = ("encode", "decode", "encode_pullback", network_name(self._n_views))
        with ThreadPoolExecutor() as pool:
            self._graphs = dict(
                zip(names, pool.map(lambda name: Graph(manifest, name), names), strict=True)
            )

    def join_views(self, n_views: int) -> None:
        """Attend over groups of `n_views` adjacent images from now on; a single-image network always does 1.

        Raises:
            ConfigError: no graph was exported for that many views.
        """
        self._n_views = n_views if self.is_multiview else 1
        self._graph(network_name(self._n_views))

    def at_work(self) -> AbstractContextManager[object]:
        """Return a context that does nothing: the network is always there."""
        return nullcontext()

    def encode(self, color: Tensor) -> Tensor:
        """Return the latents [B, C, h, w] of images [B, H, W, 3] in 0..1; differentiable.

        Raises:
            ShapeError: H or W is not the exported size.
        """
        if color.shape[1:3] != (self.size_px, self.size_px):
            raise ShapeError(
                f"The exported prior reads images of {self.size_px}x{self.size_px} px, got {color.shape[2]}x"
                f"{color.shape[1]}. Set prior.size_px={self.size_px}, or prior.runtime=torch."
            )
        return differentiable(self._graph("encode"), self._graph("encode_pullback"), color)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, H, W, 3] in 0..1 of latents [B, C, h, w]; differentiable."""
        if not latents.requires_grad:
            return self._graph("decode")(latents)
        return differentiable(self._graph("decode"), self._graph("decode_pullback"), latents)

    def evaluate(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextEmbedding,
        camera_matrices: Tensor | None = None,
    ) -> Tensor:
        """Run the network once, without gradient; shapes as in `denoiser.run_network`."""
        network_timesteps = self.noise_schedule.network_timesteps[timesteps]
        inputs = [noisy, network_timesteps, text.tokens]
        if self.is_multiview:
            assert camera_matrices is not None
            inputs.append(camera_matrices)

        graph = self._graph(network_name(self._n_views))
        if self._free_batch:
            return graph(*inputs)
        groups = zip(*(tensor.split(self._n_views) for tensor in inputs), strict=True)
        return torch.cat([graph(*group) for group in groups])

    def _graph(self, name: str) -> Graph:
        """Return a graph, loaded when it is first needed."""
        if name not in self._graphs:
            if name not in self.manifest.graphs:
                raise ConfigError(
                    f"{self.manifest.runtime_folder} has no graph {name!r}, but {', '.join(self.manifest.graphs)}. "
                    "Set prior.runtime=torch, or camera.n_views to a number that was exported."
                )
            self._graphs[name] = Graph(self.manifest, name)
        return self._graphs[name]


def network_name(n_views: int) -> str:
    """Return the name of the graph that denoises groups of `n_views` images together."""
    return f"network_{n_views}"


class TextGraph:
    """The exported text encoder of a pipeline."""

    def __init__(self, folder: Path) -> None:
        """Load it.

        Args:
            folder: of the pipeline.

        Raises:
            ConfigError: the folder has no graphs.
            InputFileError: a file cannot be read.
        """
        manifest = read_manifest(folder)
        self._tokenizer = Tokenizer.from_file(str(manifest.runtime_folder / TOKENIZER))
        self._graph = Graph(manifest, "text")

    def embed(self, texts: Sequence[str]) -> TextEmbedding:
        """Embed texts.

        Args:
            texts: K sentences; each is truncated to the length of the encoder, as in training.

        Returns:
            K embedded texts, float32, equal to those of `loading.text.embed_texts` up to rounding.
        """
        # One text at a time, so that an embedding does not depend on the texts beside it.
        rows = [self._graph(torch.tensor([self._tokenizer.encode(text).ids])) for text in texts]
        return TextEmbedding(torch.cat(rows))


def embed_texts_by_graph(folder: Path, texts: Sequence[str]) -> TextEmbedding:
    """Embed texts with the exported text encoder of a pipeline, as `TextGraph` does.

    Args:
        folder: of the pipeline.
        texts: K sentences.

    Raises:
        ConfigError: the folder has no graphs.
        InputFileError: a file cannot be read.
    """
    return TextGraph(folder).embed(texts)


def _load_noise_schedule(manifest: Manifest) -> NoiseSchedule:
    tables = load_file(manifest.runtime_folder / NOISE_SCHEDULE)
    return NoiseSchedule(
        tables["signal"],
        tables["sigma"],
        tables["network_timesteps"],
        manifest.facts["prediction_type"],
    )

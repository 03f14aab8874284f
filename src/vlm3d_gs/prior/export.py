"""Exports a pipeline of diffusers as graphs, so that runs on the CPU need neither diffusers nor transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.prior.graph_denoiser import KIND, NOISE_SCHEDULE, TOKENIZER, network_name
from vlm3d_gs.prior.loading.folder import has_component, read_components
from vlm3d_gs.prior.loading.pipeline import load_denoiser
from vlm3d_gs.prior.loading.text import load_text_encoder
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser
from vlm3d_gs.runtime.export import Exporter, Function
from vlm3d_gs.runtime.manifest import FOLDER, Manifest

CAMERA_SIZE = 16
"""Numbers of a camera matrix."""
GROUPS = 2
"""Groups of views in the example from which the network is traced."""


def export_prior(
    folder: Path, *, n_views: int = 4, size_px: int | None = None, free_batch: bool = False
) -> Manifest:
    """Write graphs of a pipeline beside its weights, into `runtime` of its folder.

    Supported are pipelines of a UNet and one text encoder: Stable Diffusion 1.5 and 2.1, and multi-view models (the
    embedded prior, MVDream). Each graph is compared with the network that it was made from.

    Args:
        folder: pipeline in diffusers' layout.
        n_views: of a group that a multi-view network denoises together; each view alone is exported, too.
        size_px: side of the images; None is the size that the network was trained for.
        free_batch: let the network's graph take any number of groups at once, which is 3 to 5 % faster, instead of one
            group a call; tracing that takes half a minute for the embedded network, and too long for deeper ones.

    Raises:
        ConfigError: the pipeline is of another kind, or `size_px` does not divide into latent cells.
        MissingDependencyError: the packages of the extra `export` are not installed.
        ModelError: a graph computes something else than its network.
    """
    components = read_components(folder)
    if has_component(components, "text_encoder_2") or not has_component(components, "unet"):
        raise ConfigError(
            f"{folder} cannot be exported: only pipelines of a UNet with one text encoder can (Stable Diffusion 1.5 "
            "and 2.1, MVDream, the embedded prior). Use prior.runtime=torch for this one."
        )

    denoiser = load_denoiser(folder, torch.device("cpu"), dtype=torch.float32)
    factor = denoiser.latent_factor
    config = denoiser.network.config
    side_px = size_px or config.sample_size * factor
    if side_px % factor:
        raise ConfigError(f"A side of {side_px} px is no multiple of {factor}. Choose such a size.")

    count, cells = GROUPS * n_views, side_px // factor
    color = torch.rand(2, side_px, side_px, 3)
    latents = torch.randn(count, config.in_channels, cells, cells)
    sources = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.safetensors"))
    exporter = Exporter(folder, [source for source in sources if not source.startswith(FOLDER)])

    encode = Function(_Encode(denoiser), {"color": color}, {"color": (0,)})
    decode = Function(_Decode(denoiser), {"latents": latents[:2]}, {"latents": (0,)})
    for name, function in (("encode", encode), ("decode", decode)):
        exporter.add(name, function)
        exporter.add_pullback(f"{name}_pullback", function)

    length, width = _export_text(folder, exporter)
    tokens = torch.randn(count, length, width)
    for joint in (n_views, 1) if denoiser.is_multiview else (1,):
        _export_network(exporter, denoiser, latents, tokens, joint, free_batch=free_batch)

    schedule = denoiser.noise_schedule
    tables = {name: getattr(schedule, name) for name in ("signal", "sigma", "network_timesteps")}
    save_file(tables, folder / FOLDER / NOISE_SCHEDULE)
    facts = {
        "kind": KIND,
        "is_multiview": denoiser.is_multiview,
        "latent_factor": factor,
        "size_px": side_px,
        "prediction_type": schedule.prediction_type,
        "free_batch": free_batch,
    }
    return exporter.finish(facts, ("diffusers", "transformers"))


def _export_text(folder: Path, exporter: Exporter) -> tuple[int, int]:
    """Export tokenizer and text encoder; return the number of tokens and their width."""
    tokenizer, encoder = load_text_encoder(folder)
    length = int(tokenizer.model_max_length)

    plain = tokenizer.backend_tokenizer
    plain.enable_truncation(length)
    plain.enable_padding(
        length=length, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token
    )
    plain.save(str(folder / FOLDER / TOKENIZER))

    ids = torch.tensor([plain.encode("a red cube on top of a blue sphere").ids] * 2)
    with torch.no_grad():
        width = encoder(ids).last_hidden_state.shape[-1]
    exporter.add("text", Function(_Text(encoder), {"ids": ids}, {"ids": (0,)}))
    return length, width


def _export_network(
    exporter: Exporter,
    denoiser: TorchDenoiser,
    latents: Tensor,
    tokens: Tensor,
    joint: int,
    *,
    free_batch: bool,
) -> None:
    """Export the network for groups of `joint` views: one group a call, or any number of them."""
    count = len(latents)
    inputs = {
        "noisy": latents,
        "timesteps": denoiser.noise_schedule.network_timesteps[torch.arange(count) * 7],
        "tokens": tokens,
    }
    if denoiser.is_multiview:
        inputs["camera_matrices"] = torch.randn(count, CAMERA_SIZE)

    denoiser.join_views(joint)
    module = _Network(denoiser)
    function = Function(module, {name: each[:joint] for name, each in inputs.items()}, {})
    if free_batch:
        function = Function(module, inputs, dict.fromkeys(inputs, (0,)), joint)
    exporter.add(network_name(joint), function)


class _Network(nn.Module):
    """One evaluation of the denoising network, as `TorchDenoiser.evaluate` without the table of timesteps."""

    def __init__(self, denoiser: TorchDenoiser) -> None:
        super().__init__()
        self.network = denoiser.network

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        tokens: Tensor,
        camera_matrices: Tensor | None = None,
    ) -> Tensor:
        output: Tensor = self.network(
            noisy, timesteps, tokens, class_labels=camera_matrices, return_dict=False
        )[0]
        return output


class _Encode(nn.Module):
    def __init__(self, denoiser: TorchDenoiser) -> None:
        super().__init__()
        self.denoiser, self.vae = denoiser, denoiser.vae

    def forward(self, color: Tensor) -> Tensor:
        return self.denoiser.encode(color)


class _Decode(nn.Module):
    def __init__(self, denoiser: TorchDenoiser) -> None:
        super().__init__()
        self.denoiser, self.vae = denoiser, denoiser.vae

    def forward(self, latents: Tensor) -> Tensor:
        return self.denoiser.decode(latents)


class _Text(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        tokens: Tensor = self.encoder(ids).last_hidden_state
        return tokens

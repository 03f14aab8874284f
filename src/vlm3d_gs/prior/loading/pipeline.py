"""Loads the folder of a diffusion pipeline: its list of components, its networks, its noise schedule.

A local folder in diffusers' layout: safetensors, no pickles, no code from the folder. `text` loads the text encoders of
the same folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.core.precision import fast_dtype
from vlm3d_gs.core.residency import Plan
from vlm3d_gs.prior.loading.folder import (
    network_component,
    read_components,
    read_settings,
    require_complete,
    unreadable,
    weights_variant,
)
from vlm3d_gs.prior.loading.mvdream_keys import (
    is_mvdream_config,
    mvdream_key_map,
    mvdream_unet_config,
)
from vlm3d_gs.prior.noise import NoiseSchedule, diffusion_schedule, flow_schedule
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

NETWORKS = {
    "UNet2DConditionModel": UNet2DConditionModel,
    "SD3Transformer2DModel": SD3Transformer2DModel,
}
VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
BETA_SETTINGS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
"""Settings that define the noise a diffusion model was trained with; the same in every diffusers scheduler."""


def load_denoiser(
    folder: Path,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    plan: Plan = "full",
) -> TorchDenoiser:
    """Load the components that a run needs at every step, from a pipeline folder in diffusers' layout.

    Supported are Stable Diffusion 1.5, 2.1 and XL, Stable Diffusion 3, and multi-view models with a camera embedding
    (MVDream's published bundle with its own tensor names, the embedded prior), with a full or a tiny VAE. A multi-view
    network still attends within each view; `multiview.join_views` joins the views.

    Args:
        folder: holds `model_index.json`, `unet` or `transformer`, `vae` and `scheduler`.
        device: where the networks go.
        dtype: of the network's weights and arithmetic. None: float32 on a CPU, with bfloat16 products where the CPU
            has them; half precision on CUDA (`half_dtype`).
        plan: other than `full`, the network stays on the CPU and moves to the device only to run.

    Returns:
        The networks frozen and in evaluation mode; the VAE in the type of `vae_dtype`.

    Raises:
        ConfigError: the folder is no pipeline, or a component is missing, of an unknown class, or only a pickle.
        InputFileError: a file of settings or weights cannot be read.
    """
    components = read_components(folder)
    network_folder = folder / network_component(components, folder)
    config = read_settings(network_folder / "config.json")

    autocast = None
    if dtype is None and device.type == "cuda":
        dtype = half_dtype(str(config.get("_class_name")))
    elif dtype is None:
        dtype, autocast = torch.float32, fast_dtype(device)

    with quiet_loading():
        network = _load_network(network_folder, config, dtype)
        vae = _load_vae(folder / "vae", str(components.get("_class_name")), device, dtype)
    noise_schedule = load_noise_schedule(folder / "scheduler").to(device)

    for module, place in ((network, device if plan == "full" else "cpu"), (vae, device)):
        module.requires_grad_(False).eval().to(place)
    return TorchDenoiser(network, vae, noise_schedule, autocast, plan)


def half_dtype(class_name: str) -> torch.dtype:
    """Return the 16-bit type in which a network runs on CUDA.

    UNets run in float16, as published: classifier-free guidance multiplies the rounding errors of two outputs by the
    guidance scale, and bfloat16 rounds eight times more coarsely. SD3's transformer needs the range of bfloat16.
    """
    if class_name == "SD3Transformer2DModel" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float16


def load_noise_schedule(folder: Path) -> NoiseSchedule:
    """Return the noise schedule that the settings of a scheduler describe.

    Args:
        folder: holds `scheduler_config.json`.

    Raises:
        ConfigError: it is neither a schedule of betas nor a flow with a fixed shift.
    """
    config = read_settings(folder / "scheduler_config.json")
    name = config.get("_class_name")

    steps = int(config.get("num_train_timesteps", 1000))
    if name in FLOW_SCHEDULERS and not config.get("use_dynamic_shifting"):
        return flow_schedule(steps, float(config.get("shift", 1.0)))
    if name in FLOW_SCHEDULERS or not {"beta_schedule", "trained_betas"} & set(config):
        raise ConfigError(
            f"The scheduler {name} in {folder} is not supported. Allowed are diffusion schedules with betas "
            "(DDIM, PNDM, Euler and the like) and flow matching with a fixed shift. Choose such a pipeline."
        )

    betas = {key: config[key] for key in BETA_SETTINGS if key in config}
    alphas = DDIMScheduler(**betas).alphas_cumprod
    return diffusion_schedule(alphas, str(config.get("prediction_type", "epsilon")))


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide the progress bars of diffusers and transformers inside the block."""
    libraries = (diffusers_logging, transformers_logging)
    enabled = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in enabled:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in enabled:
            library.enable_progress_bar()


def load_tiny_vae(folder: Path, like: TorchDenoiser) -> AutoencoderTiny:
    """Load a tiny autoencoder (such as TAESD) in place of the VAE of a pipeline.

    Args:
        folder: holds its config.json and safetensors.
        like: the pipeline; the latents must have as many channels, and cells of as many pixels.

    Raises:
        ConfigError: the folder holds no tiny autoencoder, or one that does not fit.
        InputFileError: a file cannot be read.
    """
    config = read_settings(folder / "config.json")
    vae = _from_pretrained(
        folder, config, {"AutoencoderTiny": VAES["AutoencoderTiny"]}, torch.float32
    )
    vae.requires_grad_(False).eval().to(like.device)

    fitted = replace(like, vae=vae)
    expected, found = ((d.vae.config.latent_channels, d.latent_factor) for d in (like, fitted))
    if found != expected:
        raise ConfigError(
            f"The tiny autoencoder in {folder} makes latents of {found[0]} channels, {found[1]} px a cell; "
            f"the pipeline needs {expected[0]} and {expected[1]}. Use the one made for this model."
        )
    return vae


def _load_network(
    folder: Path, config: dict[str, Any], dtype: torch.dtype
) -> UNet2DConditionModel | SD3Transformer2DModel:
    if is_mvdream_config(config):
        return _load_mvdream(folder, config, dtype)
    return _from_pretrained(folder, config, NETWORKS, dtype)


def _load_vae(
    folder: Path, pipeline: str, device: torch.device, dtype: torch.dtype
) -> AutoencoderTiny | AutoencoderKL:
    config = read_settings(folder / "config.json")
    return _from_pretrained(folder, config, VAES, vae_dtype(config, pipeline, device, dtype))


def vae_dtype(
    config: dict[str, Any], pipeline: str, device: torch.device, dtype: torch.dtype
) -> torch.dtype:
    """Return the type in which a VAE runs: that of the network on CUDA unless it overflows there, else float32.

    Only the VAE of Stable Diffusion XL overflows in half precision, unless its settings mark it as repaired
    (`force_upcast` false). For the others that setting is ignored, as by their pipelines in diffusers: true is merely
    its default.

    Args:
        config: settings of the VAE.
        pipeline: name of the pipeline's class.
        device: where it runs.
        dtype: of the network.
    """
    is_large = config.get("_class_name") == "AutoencoderKL"
    overflows = "XL" in pipeline and bool(config.get("force_upcast", True))
    return dtype if device.type == "cuda" and is_large and not overflows else torch.float32


def _from_pretrained(
    folder: Path, config: dict[str, Any], classes: dict[str, Any], dtype: torch.dtype
) -> Any:
    """Load the one of `classes` that the settings name."""
    name = config.get("_class_name")
    if name not in classes:
        raise ConfigError(
            f"The network {name!r} in {folder} is not supported. Allowed: {', '.join(classes)}, and MVDream's "
            "published UNet. Choose a pipeline with such components."
        )

    variant = weights_variant(folder, "diffusion_pytorch_model")
    try:
        network, report = classes[name].from_pretrained(
            folder,
            torch_dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise InputFileError(unreadable(folder, error)) from error

    require_complete(folder, report["missing_keys"])
    return network


def _load_mvdream(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> UNet2DConditionModel:
    """Load weights with the tensor names of latent diffusion into a network that is built without memory."""
    variant = weights_variant(folder, "diffusion_pytorch_model")
    infix = "" if variant is None else f".{variant}"
    with torch.device("meta"):
        network = UNet2DConditionModel(**mvdream_unet_config(config))

    try:
        stored = load_file(folder / f"diffusion_pytorch_model{infix}.safetensors")
        names = mvdream_key_map(stored, network.state_dict(), config)
        weights = {names[key]: value.to(dtype) for key, value in stored.items()}
        network.load_state_dict(weights, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputFileError(unreadable(folder, error)) from error
    return network

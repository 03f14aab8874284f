"""MVDream's published weights in a plain UNet: the settings and the tensor names, translated.

The published file has the names of the latent diffusion code (`input_blocks.4.1.proj_in.weight`); diffusers' UNet has
others (`down_blocks.1.attentions.0.proj_in.weight`). The tensors are the same, so a table of names suffices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vlm3d_gs.core.errors import ConfigError, InputFileError

REQUIRED_SETTINGS = (
    "attention_resolutions",
    "camera_dim",
    "channel_mult",
    "context_dim",
    "image_size",
    "in_channels",
    "model_channels",
    "num_head_channels",
    "num_res_blocks",
    "out_channels",
    "transformer_depth",
)
"""Settings that the published `unet/config.json` has."""

FIXED_MODULES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "camera_embed.0": "class_embedding.linear_1",
    "camera_embed.2": "class_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.1": "mid_block.attentions.0",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
"""Modules whose position does not depend on the settings."""

RESIDUAL_MODULES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Modules of a residual block. Those of a transformer block have the same names in both layouts."""


def is_mvdream_config(config: Mapping[str, Any]) -> bool:
    """Return whether the settings of a UNet are written in the terms of latent diffusion."""
    return "model_channels" in config


def mvdream_unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the `UNet2DConditionModel` that computes the same function.

    The camera enters as a projected class embedding, which is added to the time embedding as in MVDream; the joint
    attention over views is not a setting (`multiview.join_views`).

    Args:
        config: the published `unet/config.json`.

    Raises:
        ConfigError: a setting is missing, or the network has an image prompt (ImageDream), which is not supported.

    Source: Shi et al. 2023 (MVDream, arXiv 2308.16512), section 3.1.
    """
    missing = [name for name in REQUIRED_SETTINGS if name not in config]
    if missing:
        raise ConfigError(
            f"The UNet's config.json lacks {', '.join(missing)}; the published multi-view network has "
            f"{', '.join(REQUIRED_SETTINGS)}. Fetch the model's files again."
        )

    if config.get("ip_dim"):
        raise ConfigError(
            f"The UNet's config.json has ip_dim={config['ip_dim']}: a network with image prompts (ImageDream). "
            "Only text prompts are supported; use weights of MVDream."
        )

    widths = [config["model_channels"] * factor for factor in config["channel_mult"]]
    levels = _attention_levels(config)
    return {
        "sample_size": config["image_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": widths,
        "layers_per_block": config["num_res_blocks"],
        "down_block_types": [
            "CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in levels
        ],
        "up_block_types": [
            "CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(levels)
        ],
        "cross_attention_dim": config["context_dim"],
        "transformer_layers_per_block": config["transformer_depth"],
        # diffusers reads this setting as the number of heads.
        "attention_head_dim": [width // config["num_head_channels"] for width in widths],
        "use_linear_projection": True,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": config["camera_dim"],
    }


def mvdream_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the table of module names, published -> diffusers, for these settings.

    Latent diffusion numbers its blocks consecutively, where a downsampling counts as one, and so does a residual block
    with its attention; diffusers counts within a level. On the way up, the upsampling belongs to the last block of a
    level.
    """
    levels, depth = _attention_levels(config), config["num_res_blocks"]
    last = len(levels) - 1
    modules = dict(FIXED_MODULES)

    # Down; input_blocks.0 is the first convolution.
    block = 1
    for level, attends in enumerate(levels):
        for index in range(depth):
            target = f"down_blocks.{level}"
            _add_residual(modules, f"input_blocks.{block}.0", f"{target}.resnets.{index}")
            if attends:
                modules[f"input_blocks.{block}.1"] = f"{target}.attentions.{index}"
            block += 1
        if level < last:
            modules[f"input_blocks.{block}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            block += 1

    # Middle, between its two residual blocks the attention of `FIXED_MODULES`.
    _add_residual(modules, "middle_block.0", "mid_block.resnets.0")
    _add_residual(modules, "middle_block.2", "mid_block.resnets.1")

    # Up: one residual block more per level, and the upsampling after the attention, if there is one.
    block = 0
    for level, attends in enumerate(reversed(levels)):
        for index in range(depth + 1):
            target = f"up_blocks.{level}"
            _add_residual(modules, f"output_blocks.{block}.0", f"{target}.resnets.{index}")
            if attends:
                modules[f"output_blocks.{block}.1"] = f"{target}.attentions.{index}"
            if level < last and index == depth:
                published = f"output_blocks.{block}.{2 if attends else 1}.conv"
                modules[published] = f"{target}.upsamplers.0.conv"
            block += 1

    return modules


def diffusers_name(name: str, modules: Mapping[str, str]) -> str | None:
    """Return the diffusers name of a tensor, or None if no module of the table holds it.

    Example:
        >>> diffusers_name("time_embed.0.weight", FIXED_MODULES)
        'time_embedding.linear_1.weight'
    """
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = modules.get(".".join(parts[:end]))
        if module is not None:
            return ".".join([module, *parts[end:]])
    return None


def mvdream_key_map(
    names: Iterable[str], expected: Iterable[str], config: Mapping[str, Any]
) -> dict[str, str]:
    """Return published name to diffusers name for every tensor of a file.

    Args:
        names: of the tensors in the file.
        expected: of the tensors in the diffusers network.
        config: the published `unet/config.json`.

    Raises:
        InputFileError: the file lacks tensors of the network, or has others; the message counts both and names the
            first of each.
    """
    modules = mvdream_modules(config)
    found = {name: diffusers_name(name, modules) for name in names}

    needed = set(expected)
    missing = sorted(needed - set(found.values()))
    unexpected = sorted(name for name, new in found.items() if new not in needed)
    if missing or unexpected:
        problems = [
            f"{len(tensors)} tensors {what}, such as {tensors[0]}"
            for tensors, what in ((missing, "are missing"), (unexpected, "are not expected"))
            if tensors
        ]
        raise InputFileError(
            f"The multi-view UNet's weights do not fit its config.json: {'; '.join(problems)}. Both files must "
            "come from the same model; fetch them again."
        )

    return {name: new for name, new in found.items() if new is not None}


def _attention_levels(config: Mapping[str, Any]) -> list[bool]:
    """Return whether each level has attention; latent diffusion lists the downsampling factors of those that do."""
    factors = config["attention_resolutions"]
    return [2**level in factors for level in range(len(config["channel_mult"]))]


def _add_residual(modules: dict[str, str], published: str, target: str) -> None:
    """Add the modules of a residual block to the table."""
    for name, new in RESIDUAL_MODULES.items():
        modules[f"{published}.{name}"] = f"{target}.{new}"

"""MVDream's published weights for a plain UNet: what its settings mean and how its tensors are called.

The published file has the names of latent diffusion's own code (`input_blocks.4.1.proj_in.weight`); diffusers' UNet has
others (`down_blocks.1.attentions.0.proj_in.weight`). The tensors are the same, so a table of names is all it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vlm3d_gs.core.errors import ConfigError, InputFileError

NEEDED = (
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

AROUND = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "camera_embed.0": "class_embedding.linear_1",
    "camera_embed.2": "class_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.1": "mid_block.attentions.0",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
"""Modules whose place does not depend on the settings."""

RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Modules inside a residual block. Those inside a transformer block have the same names on both sides."""


def is_mvdream_config(config: Mapping[str, Any]) -> bool:
    """Tell whether the settings of a UNet are written in latent diffusion's terms."""
    return "model_channels" in config


def mvdream_unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the `UNet2DConditionModel` that computes the same function.

    The camera enters as a projected class embedding, which is added to the time embedding as MVDream adds its own;
    the joint attention over views is not a setting (`multiview.join_views`).

    Args:
        config: the published `unet/config.json`.

    Raises:
        ConfigError: a setting is missing, or the network has an image prompt (ImageDream), which is not supported.

    Source: Shi et al. 2023 (MVDream, arXiv 2308.16512), section 3.1.
    """
    missing = [name for name in NEEDED if name not in config]
    if missing:
        raise ConfigError(
            f"The UNet's config.json lacks {', '.join(missing)}; the published multi-view network has "
            f"{', '.join(NEEDED)}. Fetch the model's files again."
        )
    if config.get("ip_dim"):
        raise ConfigError(
            f"The UNet's config.json has ip_dim={config['ip_dim']}: a network with image prompts (ImageDream). "
            "Only text prompts are supported; use weights of MVDream."
        )
    widths = [config["model_channels"] * factor for factor in config["channel_mult"]]
    attends = _attends(config)
    return {
        "sample_size": config["image_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": widths,
        "layers_per_block": config["num_res_blocks"],
        "down_block_types": [
            "CrossAttnDownBlock2D" if there else "DownBlock2D" for there in attends
        ],
        "up_block_types": [
            "CrossAttnUpBlock2D" if there else "UpBlock2D" for there in reversed(attends)
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
    """Return the table of module names, published to diffusers, for these settings.

    Latent diffusion numbers its blocks through, each down-sampling and each residual block with what follows it
    counting as one; diffusers counts within a level. On the way up the up-sampling hangs on a level's last block.
    """
    attends, depth = _attends(config), config["num_res_blocks"]
    last = len(attends) - 1
    modules = dict(AROUND)
    block = 1
    for level, attend in enumerate(attends):
        for place in range(depth):
            inner = f"down_blocks.{level}"
            _add_residual(modules, f"input_blocks.{block}.0", f"{inner}.resnets.{place}")
            if attend:
                modules[f"input_blocks.{block}.1"] = f"{inner}.attentions.{place}"
            block += 1
        if level < last:
            modules[f"input_blocks.{block}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            block += 1
    _add_residual(modules, "middle_block.0", "mid_block.resnets.0")
    _add_residual(modules, "middle_block.2", "mid_block.resnets.1")
    block = 0
    for level, attend in enumerate(reversed(attends)):
        for place in range(depth + 1):
            inner = f"up_blocks.{level}"
            _add_residual(modules, f"output_blocks.{block}.0", f"{inner}.resnets.{place}")
            if attend:
                modules[f"output_blocks.{block}.1"] = f"{inner}.attentions.{place}"
            if level < last and place == depth:
                outer = f"output_blocks.{block}.{2 if attend else 1}.conv"
                modules[outer] = f"{inner}.upsamplers.0.conv"
            block += 1
    return modules


def diffusers_name(name: str, modules: Mapping[str, str]) -> str | None:
    """Return diffusers' name of a tensor, or None where no module of the table holds it.

    Example:
        >>> diffusers_name("time_embed.0.weight", AROUND)
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
        names: tensors of the file.
        expected: tensors of the diffusers network.
        config: the published `unet/config.json`.

    Raises:
        InputFileError: a tensor of the network is missing in the file, or the file has others; both are counted and
            the first of each named.
    """
    modules = mvdream_modules(config)
    found = {name: diffusers_name(name, modules) for name in names}
    wanted = set(expected)
    missing = sorted(wanted - set(found.values()))
    unexpected = sorted(name for name, new in found.items() if new not in wanted)
    if missing or unexpected:
        parts = [
            f"{len(list_)} tensors {what}, such as {list_[0]}"
            for list_, what in ((missing, "are missing"), (unexpected, "are not expected"))
            if list_
        ]
        raise InputFileError(
            f"The multi-view UNet's weights do not fit its config.json: {'; '.join(parts)}. Both files must "
            "come from the same model; fetch them again."
        )
    return {name: new for name, new in found.items() if new is not None}


def _attends(config: Mapping[str, Any]) -> list[bool]:
    """Tell for each level whether it has attention; latent diffusion lists the down-sampling factors that do."""
    factors = config["attention_resolutions"]
    return [2**level in factors for level in range(len(config["channel_mult"]))]


def _add_residual(modules: dict[str, str], outer: str, inner: str) -> None:
    for name, new in RESIDUAL.items():
        modules[f"{outer}.{name}"] = f"{inner}.{new}"

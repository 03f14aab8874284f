"""Which Qwen2.5-VLs `small` can compute, and their sizes, from a folder's config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vlm3d_gs.core.errors import ConfigError, InputFileError

WEIGHTS = "model.safetensors"
PATCHES = "visual.patch_embed.proj.weight"
"""Name of a tensor in the published layout; other layouts of the same network exist."""
REQUIRED: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "tie_word_embeddings": True,
    "quantization_config": None,
    "text_config.hidden_act": "silu",
    "text_config.use_sliding_window": False,
    "text_config.rope_parameters.rope_type": "default",
    "text_config.head_dim": None,
    "vision_config.hidden_act": "silu",
    "vision_config.rope_parameters.rope_type": "axial",
    "vision_config.head_dim": None,
}
"""Settings with one value that is known; None is a setting that must be absent."""


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Sizes of a stack of transformer blocks: the vision tower, or the language model."""

    width: int
    hidden: int
    """Width inside the gated layers."""
    n_blocks: int
    n_heads: int
    rope_theta: float
    eps: float
    """Added to the mean square by which states are normalised."""

    @property
    def head_width(self) -> int:
        """Numbers of one head."""
        return self.width // self.n_heads


@dataclass(frozen=True, slots=True)
class SmallConfig:
    """Sizes of a small critic."""

    vision: StackConfig
    text: StackConfig
    n_words: int
    mrope_section: tuple[int, ...]
    """Pairs of a head that turn with the temporal, height and width position."""
    channels: int
    frames: int
    """Frames of a patch."""
    patch_size: int
    merge_size: int
    """Patches along each side that become one token."""
    image_token_id: int
    end_token_id: int
    """Ends an answer."""
    trained_px: int | None
    """Side of the images that it was trained on; None is any."""


def is_small(folder: Path) -> bool:
    """Return whether `small` can compute the network in a folder."""
    try:
        read_small_config(folder)
    except (ConfigError, InputFileError):
        return False
    return True


def read_small_config(folder: Path) -> SmallConfig:
    """Return the sizes of the network in a folder.

    Raises:
        ConfigError: it is not one that `small` computes; the message says why.
        InputFileError: a file cannot be read.
    """
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, "pt") as stored:
            names = set(stored.keys())
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise InputFileError(f"The critic in {folder} cannot be read: {error}") from error

    if PATCHES not in names:
        raise ConfigError(_refusal(f"its weights have other names; there is no {PATCHES}"))
    try:
        _require_known(settings)
        return _sizes(settings)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(_refusal(f"config.json has no usable {error}")) from error


def _require_known(settings: dict[str, Any]) -> None:
    """Refuse settings that `small` does not know."""
    for name, expected in REQUIRED.items():
        found: Any = settings
        for key in name.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if found != expected:
            raise ConfigError(_refusal(f"{name} is {found!r} and must be {expected!r}"))

    text, vision = settings["text_config"], settings["vision_config"]
    if sorted(vision["fullatt_block_indexes"]) != list(range(vision["depth"])):
        raise ConfigError(_refusal("some blocks of its vision tower attend within windows"))
    if set(text.get("layer_types") or ()) - {"full_attention"}:
        raise ConfigError(_refusal("some layers of its language model do not attend to all tokens"))
    if text["num_key_value_heads"] != text["num_attention_heads"]:
        raise ConfigError(_refusal("heads of its language model share keys"))
    if vision["out_hidden_size"] != text["hidden_size"]:
        raise ConfigError(_refusal("its vision tower and language model have different widths"))

    # Each pair of a head's numbers turns with one position.
    head = text["hidden_size"] / text["num_attention_heads"]
    section = text["rope_parameters"]["mrope_section"]
    if len(section) != 3 or 2 * sum(section) != head:
        raise ConfigError(
            _refusal(f"mrope_section {section} does not fit heads of {head:g} numbers")
        )
    if vision["hidden_size"] % (4 * vision["num_heads"]):
        raise ConfigError(_refusal("heads of its vision tower are no multiple of 4 numbers"))


def _sizes(settings: dict[str, Any]) -> SmallConfig:
    text, vision = settings["text_config"], settings["vision_config"]
    side = settings.get("trained_px")

    return SmallConfig(
        StackConfig(
            int(vision["hidden_size"]),
            int(vision["intermediate_size"]),
            int(vision["depth"]),
            int(vision["num_heads"]),
            float(vision["rope_parameters"]["rope_theta"]),
            1e-6,  # fixed in Qwen2.5-VL
        ),
        StackConfig(
            int(text["hidden_size"]),
            int(text["intermediate_size"]),
            int(text["num_hidden_layers"]),
            int(text["num_attention_heads"]),
            float(text["rope_parameters"]["rope_theta"]),
            float(text["rms_norm_eps"]),
        ),
        n_words=int(text["vocab_size"]),
        mrope_section=tuple(int(pairs) for pairs in text["rope_parameters"]["mrope_section"]),
        channels=int(vision["in_channels"]),
        frames=int(vision["temporal_patch_size"]),
        patch_size=int(vision["patch_size"]),
        merge_size=int(vision["spatial_merge_size"]),
        image_token_id=int(settings["image_token_id"]),
        end_token_id=int(text["eos_token_id"]),
        trained_px=None if side is None else int(side),
    )


def _refusal(reason: str) -> str:
    return (
        f"critic.runtime=torch computes small Qwen2.5-VLs only, and not this one: {reason}. "
        "Set critic.runtime=auto."
    )

"""Sizes of the published models' networks, to say what a run will need before anything is downloaded.

Millions of parameters follow from the configs that the repositories publish, and add up to the catalogue's sizes at two
bytes each within a few per cent, which a test checks. Where weights are on the machine their own headers are read.
"""

from __future__ import annotations

from typing import Any

MILLIONS: dict[str, dict[str, float]] = {
    "mvdream": {"unet": 869.0, "vae": 83.7, "text_encoder": 340.4},
    "sd15": {"unet": 859.5, "vae": 83.7, "text_encoder": 123.1},
    "sd": {"unet": 865.9, "vae": 83.7, "text_encoder": 340.4},
    "sdxl": {"unet": 2567.5, "vae": 83.7, "text_encoder": 123.1, "text_encoder_2": 694.7},
    "sd3": {
        "transformer": 2243.0,
        "vae": 83.8,
        "text_encoder": 123.7,
        "text_encoder_2": 694.7,
        "text_encoder_3": 4762.3,
    },
    "qwen2.5-vl-3b": {"critic": 3755.0},
    "qwen2.5-vl-7b": {"critic": 8292.0},
    "qwen2-vl-2b": {"critic": 2209.0},
    "qwen3-vl-2b": {"critic": 2128.0},
    "qwen3-vl-4b": {"critic": 4438.0},
}
"""Catalogue name -> component -> millions of parameters."""


def _qwen(
    vision: tuple[int, int, int], text: tuple[int, int, int], patch: int = 14
) -> dict[str, Any]:
    """Return the part of a Qwen-VL's config.json that decides its activations: layers, width, feed-forward width."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size")
    eyes = dict(zip(("depth", "hidden_size", "intermediate_size"), vision, strict=True))
    return {
        "vision_config": {**eyes, "spatial_merge_size": 2, "patch_size": patch},
        **dict(zip(names, text, strict=True)),
    }


CRITIC_CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2.5-vl-3b": _qwen((32, 1280, 3420), (36, 2048, 11008)),
    "qwen2.5-vl-7b": _qwen((32, 1280, 3420), (28, 3584, 18944)),
    "qwen2-vl-2b": _qwen((32, 1280, 5120), (28, 1536, 8960)),
    "qwen3-vl-2b": _qwen((24, 1024, 4096), (28, 2048, 6144), 16),
    "qwen3-vl-4b": _qwen((24, 1024, 4096), (36, 2560, 9728), 16),
}
"""Catalogue name -> the sizes in a critic's config.json."""

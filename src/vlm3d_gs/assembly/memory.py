"""How much GPU memory a run will need, before anything is loaded, and which parts must take turns.

A rough estimate: weights are counted exactly, activations by constants measured on torch's `meta` device (which
allocates nothing), the renderer by a guess. Memory is in MiB, pictures are square.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlm3d_gs.core.errors import ConfigError, DeviceError, InputFileError
from vlm3d_gs.core.residency import PLANS, Plan

MIB = 2.0**20

CUDA_MIB = 600.0
"""CUDA context and the workspaces of its libraries."""
RESERVE = 1.1
"""The allocator holds more than is in use."""


@dataclass(frozen=True, slots=True)
class FamilyActivations:
    """Values that live at the same time in a family's networks, per pixel of each picture that is encoded."""

    encode: int
    """Graph of the VAE's encoder with frozen weights."""
    network: int
    """Peak of one evaluation of the network without gradient, a branch."""
    trained: int
    """Graph of one evaluation of the network with a LoRA, a branch."""


FAMILIES = {
    "mini": FamilyActivations(112, 80, 540),
    "mvdream": FamilyActivations(3040, 132, 1480),
    "sd15": FamilyActivations(3040, 132, 1560),
    "sd": FamilyActivations(3040, 132, 1480),
    "sdxl": FamilyActivations(3040, 80, 2600),
    "sd3": FamilyActivations(3040, 90, 1960),
}
"""Measured on `meta` at the published sizes (SD3: medium) with memory-efficient attention; the tests repeat it for `sd`
and `mini`."""
TINY_VAE_ENCODE = 471
"""Values a pixel in the encoder's graph of an `AutoencoderTiny` in the place of the family's VAE."""

GAUSSIAN_BYTES = 59 * 4 * 4
"""A Gaussian of spherical-harmonics degree 3: parameters, gradients and Adam's two moments, float32."""
SPLAT_BYTES = 600
"""Of the renderer, for each Gaussian in each picture; a guess."""
PIXEL_BYTES = 100
"""Of the renderer, for each pixel of each picture; a guess."""


@dataclass(frozen=True, slots=True)
class CriticWork:
    """What decides the critic's activations: the sizes in a Qwen2.5-VL's config, and the number of its tokens."""

    patches: int
    """Image patches over all views."""
    tokens: int
    """Tokens of the language model: a quarter of the patches, and the texts."""
    vision: tuple[int, int, int] = (32, 1280, 3420)
    """Layers, width and feed-forward width of the vision tower."""
    text: tuple[int, int, int] = (28, 3584, 18944)
    """The same of the language model; the 7B's unless given."""


def critic_work(
    config: Mapping[str, Any], pictures: int, size_px: int, text_tokens: int
) -> CriticWork:
    """Return the critic's work from the config.json of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL.

    Args:
        config: the parsed file; the language model's sizes may lie under `text_config` or beside it.
        pictures: views that it sees at once.
        size_px: side of each.
        text_tokens: of messages and questions together.
    """
    vision, text = config["vision_config"], config.get("text_config", config)
    merge, patch = vision["spatial_merge_size"], vision["patch_size"]
    cells = pictures * math.ceil(size_px / (patch * merge)) ** 2
    width = vision.get("embed_dim", vision["hidden_size"])  # Qwen2-VL's hidden_size is the text's
    inner = vision.get("intermediate_size") or round(vision["mlp_ratio"] * width)
    return CriticWork(
        cells * merge**2,
        cells + text_tokens,
        (vision["depth"], width, inner),
        (text["num_hidden_layers"], text["hidden_size"], text["intermediate_size"]),
    )


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Parts of the need, MiB."""

    weights: dict[str, float]
    """Component -> its weights. Text encoders are used before the run and freed."""
    scene: float
    """The Gaussians with gradients and Adam's moments, and the renderer."""
    encode: float
    """Graph of the VAE over all pictures, held until the losses' gradients are taken."""
    encode_one: float
    """The same of one picture."""
    network: float
    """Peak of the largest diffusion network over all pictures and branches."""
    network_split: float
    """The same, one branch at a time."""
    critic: float
    """Graph of the critic."""
    cuda: float = CUDA_MIB
    """CUDA's own."""

    @property
    def total(self) -> float:
        """Need with everything on the GPU."""
        return need_mib(self, "full")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How the parts share the GPU."""

    kind: Plan
    """`full`: all resident.

    `offload`: diffusion networks and critic are on the GPU only while they work; the VAE, which is small and whose
    graph is held meanwhile, stays. `sequential`: besides, pictures are encoded one at a time, their graphs rebuilt for
    the gradient, and the branches of classifier-free guidance run one after the other.
    """
    need: float
    """Estimated need, MiB."""
    reason: str
    """One sentence for the user."""


def parameter_count(build: Callable[[], nn.Module]) -> int:
    """Count the parameters of what `build` constructs, on the `meta` device: no memory, no weights."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def count_parameters(folder: Path) -> int:
    """Count the floating-point values in a folder's .safetensors files by their headers; no tensor is read.

    Shards are added up; a tensor that lies in several files (fp16 beside fp32) counts once.

    Args:
        folder: of one component (`unet/`, `vae/`, a Qwen2.5-VL), or one file.

    Raises:
        InputFileError: there is no such file, or a header is damaged.
    """
    files = [folder] if folder.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputFileError(
            f"{folder} holds no .safetensors file to count; give the folder of one component."
        )
    sizes: dict[str, int] = {}
    for file in files:
        for name, (dtype, count) in _safetensors_header(file).items():
            if dtype.startswith(("F", "BF")):
                sizes[name] = count
    return sum(sizes.values())


def _safetensors_header(file: Path) -> dict[str, tuple[str, int]]:
    """Return dtype and size of each tensor: 8 bytes of length, little-endian, then JSON."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size - 8:
                raise InputFileError(f"{file} is truncated: its header ends behind its end.")
            header: dict[str, Any] = json.loads(stream.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            return {name: (str(e["dtype"]), math.prod(e["shape"])) for name, e in tensors.items()}
    except (OSError, struct.error, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputFileError(
            f"{file} is no readable .safetensors file ({error}); download it again."
        ) from error


def estimate(
    family: str,
    parameters: Mapping[str, int],
    pictures: int,
    resolution_px: int,
    *,
    dtype_bytes: int = 2,
    vae_dtype_bytes: int = 4,
    branches: int = 2,
    gaussians: int = 0,
    critic: CriticWork | None = None,
) -> MemoryEstimate:
    """Estimate the GPU memory of a run.

    Weights: parameters times bytes. Encoder: pictures * pixels * values a pixel (`FAMILIES`) * bytes; this grows with
    the square of the side and is the largest part at 512 px and above. Network: the same times the branches, without
    gradients; a component named `lora` adds a graph of the network for the pictures, whichever is larger. Critic: see
    `critic_values`. Convolution workspaces are not in it.

    Args:
        family: key of `FAMILIES`; with two priors the one with the larger network.
        parameters: component -> number of parameters. What follows the last dot of a name counts, so that two priors
            can be told apart (`sd.vae`). `vae` has its own dtype, and its graph adds up over priors; `tiny_vae` is a
            VAE with a smaller graph; names that begin with `text_encoder` are gone before the run; `critic` is the
            critic; `lora` is held in float32 with gradients and Adam's moments; all others are diffusion networks.
        pictures: of one step.
        resolution_px: side of the pictures that the VAE encodes; the larger one with two priors.
        dtype_bytes: of networks, text encoders and critic: 2 for fp16 and bf16.
        vae_dtype_bytes: of the VAE.
        branches: outputs asked for at once: 2 with classifier-free guidance, up to 4 with Perp-Neg.
        gaussians: largest number in the run.
        critic: None without.

    Raises:
        ConfigError: unknown family, or a number that is not positive.
    """
    if family not in FAMILIES:
        raise ConfigError(f"Unknown prior family {family!r}. Known: {', '.join(FAMILIES)}.")
    for name, value in (("pictures", pictures), ("resolution_px", resolution_px)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1 to estimate memory, got {value}.")
    values, pixels = FAMILIES[family], resolution_px**2
    roles = [_role(name) for name in parameters]
    encoded = values.encode * roles.count("vae") + TINY_VAE_ENCODE * roles.count("tiny_vae")
    encode_one = pixels * encoded * vae_dtype_bytes / MIB
    branch = pictures * pixels * values.network * dtype_bytes / MIB
    trained = pictures * pixels * values.trained * dtype_bytes / MIB if "lora" in roles else 0.0
    bytes_of = {"vae": vae_dtype_bytes, "tiny_vae": vae_dtype_bytes, "lora": 16}
    scene = gaussians * (GAUSSIAN_BYTES + SPLAT_BYTES * pictures) + PIXEL_BYTES * pixels * pictures
    return MemoryEstimate(
        {
            name: count * bytes_of.get(_role(name), dtype_bytes) / MIB
            for name, count in parameters.items()
        },
        scene / MIB,
        encode_one * pictures,
        encode_one,
        max(branch * branches, trained),
        max(branch, trained),
        0.0 if critic is None else critic_values(critic) * dtype_bytes / MIB,
    )


def critic_values(work: CriticWork) -> int:
    """Return the number of values in the critic's graph, its weights frozen.

    A layer keeps three values of its feed-forward width for each token (gate, its activation, up) and about eleven of
    its width (norms, queries, keys, values, attention's output); attention itself is never stored.
    """
    return sum(
        count * layers * (3 * wide + 11 * width)
        for count, (layers, width, wide) in (
            (work.patches, work.vision),
            (work.tokens, work.text),
        )
    )


def need_mib(parts: MemoryEstimate, plan: Plan) -> float:
    """Return the largest need of a run under a plan, the allocator's reserve included."""
    roles: dict[str, list[float]] = {"vae": [], "critic": [], "text": [], "lora": [], "network": []}
    for name, mib in parts.weights.items():
        roles[_part(name)].append(mib)
    kept = parts.scene + sum(roles["vae"]) + sum(roles["lora"])
    network, critic = sum(roles["network"]), sum(roles["critic"])
    if plan == "full":
        run = kept + network + critic + parts.encode + max(parts.network, parts.critic)
    else:
        network = max(roles["network"], default=0.0)
        if plan == "offload":
            run = kept + parts.encode + max(network + parts.network, critic + parts.critic)
        else:
            turns = (parts.encode_one, network + parts.network_split, critic + parts.critic)
            run = kept + max(turns)
    before = max(roles["text"], default=0.0)
    return parts.cuda + RESERVE * max(run, before)


def choose_plan(parts: MemoryEstimate, free_mib: float) -> MemoryPlan:
    """Choose the quickest plan that fits.

    Args:
        parts: from `estimate`.
        free_mib: free memory of the GPU before this process has used it.

    Raises:
        DeviceError: not even `sequential` fits; the message gives the need, what is free, and what to change.
    """
    how = {
        "full": "all models stay on the GPU",
        "offload": "diffusion network and critic take turns on the GPU, which is slower",
        "sequential": "models take turns on the GPU and pictures and guidance branches are worked off "
        "one by one, which is slow",
    }
    for plan in PLANS:
        need = need_mib(parts, plan)
        if need <= free_mib:
            reason = f"Memory plan {plan}: {how[plan]} (about {need:.0f} MiB of {free_mib:.0f} MiB free)."
            return MemoryPlan(plan, need, reason)
    raise DeviceError(
        f"The run needs about {need_mib(parts, 'sequential'):.0f} MiB of GPU memory even when its models take turns; "
        f"{free_mib:.0f} MiB are free. Close other programs on the GPU, take a smaller critic or --no-critic, choose a "
        "smaller preset or a lower resolution (prior.size_px), or use the embedded models (preset mini)."
    )


def describe(parts: MemoryEstimate) -> str:
    """Return the parts as one line for the user; text encoders, freed before the run, are left out."""
    entries = {
        f"{name} weights": mib for name, mib in parts.weights.items() if _part(name) != "text"
    } | {
        "encoding": parts.encode,
        "denoising": parts.network,
        "critic's answers": parts.critic,
        "Gaussians and renders": parts.scene,
        "CUDA": parts.cuda,
    }
    listed = ", ".join(f"{name} {mib:.0f}" for name, mib in entries.items() if mib >= 0.5)
    return (
        f"Estimated GPU memory: {parts.total:.0f} MiB with all models resident and a reserve of a tenth ({listed}; "
        "denoising and the critic take turns)."
    )


def _role(name: str) -> str:
    return name.rpartition(".")[2]


def _part(name: str) -> str:
    """Return which sum of `need_mib` a component belongs to."""
    role = _role(name)
    if role in ("vae", "tiny_vae"):
        return "vae"
    if role.startswith("text_encoder"):
        return "text"
    return role if role in ("critic", "lora") else "network"

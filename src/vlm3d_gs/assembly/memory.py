"""How much GPU memory a run will need, before anything is loaded, and which networks must take turns.

A rough estimate: weights are counted exactly, activations by constants that were measured on torch's `meta` device
(which allocates nothing), the renderer by a guess. Memory is in MiB, pictures are square.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import ConfigError, DeviceError, InputFileError
from vlm3d_gs.core.residency import PLANS, Plan

MIB = 2.0**20

CUDA_MIB = 600.0
"""CUDA's context and the workspaces of its libraries."""
RESERVE = 1.1
"""Factor for memory that the allocator holds without using it."""


@dataclass(frozen=True, slots=True)
class FamilyActivations:
    """Values alive at the same time in a family's networks, per pixel of each encoded picture."""

    encode: int
    """Graph of the VAE's encoder, its weights frozen."""
    network: int
    """Peak of one evaluation of the network without gradient, per branch."""
    trained: int
    """Graph of one evaluation of the network with a LoRA, per branch."""


FAMILIES = {
    "mini": FamilyActivations(112, 80, 540),
    "mvdream": FamilyActivations(3040, 132, 1480),
    "sd15": FamilyActivations(3040, 132, 1560),
    "sd": FamilyActivations(3040, 132, 1480),
    "sdxl": FamilyActivations(3040, 80, 2600),
    "sd3": FamilyActivations(3040, 90, 1960),
}
"""Measured on `meta` at the published sizes (SD3: medium) with memory-efficient attention; the tests repeat `sd` and
`mini`."""
TINY_VAE_ENCODE = 471
"""Values per pixel in the encoder's graph of an `AutoencoderTiny` that replaces the family's VAE."""

GAUSSIAN_BYTES = 59 * 4 * 4
"""A Gaussian with harmonics of degree 3: parameters, gradients and Adam's two moments, float32."""
SPLAT_BYTES = 600
"""Renderer, per Gaussian and picture; a guess."""
PIXEL_BYTES = 100
"""Renderer, per pixel of each picture; a guess."""


@dataclass(frozen=True, slots=True)
class CriticWork:
    """What determines the critic's activations: the sizes in its config, and the number of its tokens."""

    patches: int
    """Image patches over all views."""
    tokens: int
    """Tokens of the language model: a quarter of the patches, and the texts."""
    vision: tuple[int, int, int] = (32, 1280, 3420)
    """Layers, width and feed-forward width of the vision tower."""
    text: tuple[int, int, int] = (28, 3584, 18944)
    """The same of the language model; the defaults are those of Qwen2.5-VL-7B."""


def critic_work(
    config: Mapping[str, Any], pictures: int, size_px: int, text_tokens: int
) -> CriticWork:
    """Return the critic's work from the config.json of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL.

    Args:
        config: the parsed file; the sizes of the language model may be under `text_config` or at the top.
        pictures: views that it sees at once.
        size_px: side of each view.
        text_tokens: tokens of messages and questions together.
    """
    vision, text = config["vision_config"], config.get("text_config", config)
    merge, patch = vision["spatial_merge_size"], vision["patch_size"]

    # `merge` squared patches become one token of the language model.
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
    """What a run needs, item by item, MiB."""

    weights: dict[str, float]
    """Weights by component. Text encoders are used before the run and freed."""
    scene: float
    """Gaussians with gradients and Adam's moments, and the renderer."""
    encode: float
    """Graph of the VAE over all pictures, held until the gradients of the losses are taken."""
    encode_one: float
    """The same for one picture."""
    network: float
    """Peak of the largest diffusion network over all pictures and branches."""
    network_split: float
    """The same, one branch at a time."""
    critic: float
    """Graph of the critic."""
    cuda: float = CUDA_MIB
    """CUDA itself."""

    @property
    def total(self) -> float:
        """Memory needed with everything on the GPU."""
        return need_mib(self, "full")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How the networks share the GPU."""

    kind: Plan
    """`full`: all stay on the GPU.

    `offload`: diffusion networks and critic are on the GPU only while they work; the VAE stays, since it is small and
    its graph is held meanwhile. `sequential`: in addition, pictures are encoded one at a time, their graphs rebuilt for
    the gradient, and the branches of classifier-free guidance run one after the other.
    """
    need: float
    """Estimated memory, MiB."""
    reason: str
    """One sentence for the user."""


def count_parameters(folder: Path) -> int:
    """Count the floating-point values in the .safetensors files of a folder by their headers; no tensor is read.

    Shards are added up; a tensor in several files (fp16 beside fp32) counts once.

    Args:
        folder: one component (`unet/`, `vae/`, a Qwen2.5-VL), or one file.

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
                raise InputFileError(f"{file} is truncated: its header extends past its end.")

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

    Weights: parameters times bytes. Encoder: pictures * pixels * values per pixel (`FAMILIES`) * bytes, which grows
    with the square of the side and is the largest item at 512 px and above. Network: the same times the branches,
    without gradients, or the graph of a `lora` component if that is larger. Critic: see `critic_values`. Workspaces of
    convolutions are not included.

    Args:
        family: key of `FAMILIES`; with two priors, of the one with the larger network.
        parameters: number of parameters by component. The part of the name after the last dot decides, so that two
            priors can be told apart (`sd.vae`). `vae` has its own dtype, and its graph adds up over priors; `tiny_vae`
            is a VAE with a smaller graph; names that begin with `text_encoder` are freed before the run; `critic` is
            the critic; `lora` is held in float32 with gradients and Adam's moments; all others are diffusion networks.
        pictures: of one step.
        resolution_px: side of the pictures that the VAE encodes; with two priors, the larger one.
        dtype_bytes: of networks, text encoders and critic: 2 for fp16 and bf16.
        vae_dtype_bytes: of the VAE.
        branches: predictions in one batch: 2 with classifier-free guidance, up to 4 with Perp-Neg.
        gaussians: largest number in the run.
        critic: None without a critic.

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

    For each token a layer keeps three values of its feed-forward width (gate, its activation, up) and about eleven of
    its width (norms, queries, keys, values, output of attention); the attention matrix is never stored.
    """
    return sum(
        count * layers * (3 * wide + 11 * width)
        for count, (layers, width, wide) in (
            (work.patches, work.vision),
            (work.tokens, work.text),
        )
    )


def need_mib(memory: MemoryEstimate, plan: Plan) -> float:
    """Return the peak memory of a run under a plan, including the allocator's reserve."""
    roles: dict[str, list[float]] = {"vae": [], "critic": [], "text": [], "lora": [], "network": []}
    for name, mib in memory.weights.items():
        roles[_group(name)].append(mib)
    kept = memory.scene + sum(roles["vae"]) + sum(roles["lora"])
    critic = sum(roles["critic"])

    if plan == "full":
        network = sum(roles["network"])
        run = kept + network + critic + memory.encode + max(memory.network, memory.critic)
    else:
        # Only the network at work is on the GPU, besides what is kept.
        network = max(roles["network"], default=0.0)
        if plan == "offload":
            turns = (network + memory.network, critic + memory.critic)
            run = kept + memory.encode + max(turns)
        else:
            run = kept + max(
                memory.encode_one, network + memory.network_split, critic + memory.critic
            )

    before = max(roles["text"], default=0.0)
    return memory.cuda + RESERVE * max(run, before)


def choose_plan(memory: MemoryEstimate, free_mib: float) -> MemoryPlan:
    """Choose the fastest plan that fits.

    Args:
        memory: from `estimate`.
        free_mib: free memory of the GPU before this process has used it.

    Raises:
        DeviceError: not even `sequential` fits; the message says what is needed, what is free, and what to change.
    """
    descriptions = {
        "full": "all models stay on the GPU",
        "offload": "diffusion network and critic take turns on the GPU, which is slower",
        "sequential": "models take turns on the GPU, and pictures and guidance branches are processed "
        "one by one, which is slow",
    }

    for plan in PLANS:
        need = need_mib(memory, plan)
        if need <= free_mib:
            reason = f"Memory plan {plan}: {descriptions[plan]} (about {need:.0f} MiB of {free_mib:.0f} MiB free)."
            return MemoryPlan(plan, need, reason)

    raise DeviceError(
        f"The run needs about {need_mib(memory, 'sequential'):.0f} MiB of GPU memory even when its models take turns; "
        f"{free_mib:.0f} MiB are free. Close other programs on the GPU, take a smaller critic or --no-critic, choose a "
        "smaller preset or a lower resolution (prior.size_px), or use the embedded models (preset mini)."
    )


def part_of(memory: MemoryEstimate, *, scene: bool, prior: bool, critic: bool) -> MemoryEstimate:
    """Return what of a run a device needs that holds some of its parts.

    Args:
        memory: of the whole run.
        scene: whether the Gaussians are there, and rendered.
        prior: whether the priors' networks are.
        critic: whether critic and judge are.
    """
    return replace(
        memory,
        weights={
            name: mib
            for name, mib in memory.weights.items()
            if (critic if _group(name) == "critic" else prior)
        },
        scene=memory.scene if scene else 0.0,
        encode=memory.encode if prior else 0.0,
        encode_one=memory.encode_one if prior else 0.0,
        network=memory.network if prior else 0.0,
        network_split=memory.network_split if prior else 0.0,
        critic=memory.critic if critic else 0.0,
    )


def describe(memory: MemoryEstimate) -> str:
    """Return the estimate as one line for the user, without text encoders, which are freed before the run."""
    entries = {
        f"{name} weights": mib for name, mib in memory.weights.items() if _group(name) != "text"
    } | {
        "encoding": memory.encode,
        "denoising": memory.network,
        "critic's answers": memory.critic,
        "Gaussians and renders": memory.scene,
        "CUDA": memory.cuda,
    }

    listed = ", ".join(f"{name} {mib:.0f}" for name, mib in entries.items() if mib >= 0.5)
    return (
        f"Estimated GPU memory: {memory.total:.0f} MiB with all models resident and a reserve of a tenth ({listed}; "
        "denoising and the critic take turns)."
    )


def _role(name: str) -> str:
    return name.rpartition(".")[2]


def _group(name: str) -> str:
    """Return the group of components in `need_mib` that a component belongs to."""
    role = _role(name)
    if role in ("vae", "tiny_vae"):
        return "vae"
    if role.startswith("text_encoder"):
        return "text"
    return role if role in ("critic", "lora") else "network"

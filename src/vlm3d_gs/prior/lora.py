"""The score of the renders: a LoRA on the prior's own network, trained along with the scene.

Variational score distillation needs eps_phi(z_t, t, camera, y), a denoiser of the current renders of the scene. It is
the frozen network plus low-rank weights and an embedding of the camera (Wang et al. 2023, ProlificDreamer, arXiv
2305.16213, section 4.2); both are active only inside the calls of this file. Owns peft.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from vlm3d_gs.core.errors import CheckpointError, ConfigError, ShapeError
from vlm3d_gs.core.seeding import generator as seeded
from vlm3d_gs.prior.denoiser import TextEmbedding, run_network
from vlm3d_gs.prior.noise import add_noise, clean_and_noise, training_target
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

ADAPTER_NAME = "score"
TARGET_MODULES = ["to_q", "to_k", "to_v", "to_out.0"]
"""The linear layers of every attention block."""
CAMERA_SIZE = 16
"""Values of a flattened camera matrix."""
INITIALLY_ZERO = ("lora_B", "linear_2.weight", "bias")
"""Endings of the parameters that start at zero, so that a new adapter changes nothing."""
FLOAT16_GRADIENT_SCALE = 1024.0
"""Loss scale that keeps the gradients of a float16 network from underflowing; a power of two divides out exactly."""


class ScoreAdapter:
    """A denoiser of the scene's own renders, trained on them; the base network stays as it is.

    Attaches to the network on construction. Between calls the outputs of the base network are bit for bit those without
    an adapter; its `state_dict` has other names until `remove`. A network without a camera condition gets one, which is
    added to its time embedding; a multi-view network keeps its own.
    """

    def __init__(
        self,
        denoiser: TorchDenoiser,
        *,
        seed: int,
        rank: int = 4,
        alpha: float | None = None,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        camera_dropout: float = 0.1,
    ) -> None:
        """Inject the low-rank layers, in float32 whatever the precision of the network.

        Args:
            denoiser: the frozen model; only its network is changed.
            seed: of the initial weights; no global random state is changed.
            rank: of the low-rank matrices, at least 1.
            alpha: their product is multiplied by alpha / rank; None is 1.
            lr: of AdamW; 1e-4 is the authors'.
            weight_decay: of AdamW.
            camera_dropout: probability that a training step replaces the camera matrices by zeros, 0 to 1. Has no
                effect on multi-view networks.

        Raises:
            ConfigError: `rank` is less than 1, or the network already has LoRA layers.
        """
        if rank < 1:
            raise ConfigError(f"The rank of a LoRA must be at least 1, got {rank}.")
        network = denoiser.network
        if any(isinstance(module, BaseTunerLayer) for module in network.modules()):
            raise ConfigError(
                "The prior's network carries LoRA layers already. Fuse them into its weights, or remove them, first."
            )

        self.denoiser, self.camera_dropout = denoiser, camera_dropout
        self._required_grad = {p: p.requires_grad for p in network.parameters()}

        # New modules draw from the global random state; their weights are set from `seed` below.
        with torch.random.fork_rng(devices=[]):
            config = LoraConfig(
                r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=TARGET_MODULES
            )
            # peft's tuner, not diffusers' add_adapter: it can also restore the plain layers.
            self._tuner = LoraModel(network, config, ADAPTER_NAME)
            self._camera = None if denoiser.is_multiview else _camera_embedding(denoiser)

        self.parameters = _named_parameters(network, self._camera)
        """Name -> trained parameter, float32."""
        _initialize(self.parameters, seeded(seed, "adapter"))
        self._tuner.disable_adapter_layers()

        self._optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=lr, weight_decay=weight_decay
        )
        self._attached = True

    @torch.no_grad()
    def predict_noise(
        self, noisy: Tensor, timesteps: Tensor, text: TextEmbedding, camera_matrices: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Predict with the adapter, without guidance.

        Args:
            noisy: [B, C, h, w] latents.
            timesteps: [B] int64.
            text: B embedded texts.
            camera_matrices: [B, 16] of `cameras.mvdream_camera_matrices`; None stands for zeros, as in the training
                steps that drop the cameras.

        Returns:
            Clean latents and noise, both [B, C, h, w] float32, without graph.
        """
        with self._active():
            output = self._run(noisy, timesteps, text, camera_matrices)
        return clean_and_noise(self.denoiser.noise_schedule, output, noisy, timesteps)

    def train_step(
        self,
        latents: Tensor,
        text: TextEmbedding,
        camera_matrices: Tensor | None,
        generator: torch.Generator,
        *,
        n_views: int = 1,
        timesteps: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> float:
        """Take one AdamW step on E |output - target|^2, the diffusion loss of the renders.

        The target is `noise.training_target`, so the loss is in the parametrisation of the network, with weight 1. A
        step whose gradient is not finite changes nothing.

        Args:
            latents: [B, C, h, w] clean latents of the renders; nothing flows back to them.
            text: B embedded texts.
            camera_matrices: [B, 16] or None, as in `predict_noise`.
            generator: source of timesteps, noise and dropout, on the CPU.
            n_views: adjacent views that share a timestep, as multi-view networks were trained.
            timesteps: [B] int64 in place of uniformly drawn ones.
            noise: [B, C, h, w] in place of drawn noise.

        Returns:
            The loss before the step, a mean over all entries.

        Raises:
            ShapeError: B is no multiple of `n_views`.

        Source: Wang et al. 2023 (ProlificDreamer), eq. 9.
        """
        noise_schedule, latents = self.denoiser.noise_schedule, latents.detach()
        drawn_timesteps, drawn_noise, drop_cameras = self._draw(latents, n_views, generator)
        timesteps = drawn_timesteps if timesteps is None else timesteps
        noise = drawn_noise if noise is None else noise
        if drop_cameras and self._camera is not None:
            camera_matrices = None

        noisy = add_noise(noise_schedule, latents, noise, timesteps)
        target = training_target(noise_schedule, latents, noise, timesteps)

        # Gradient checkpointing runs the layers again in the backward pass, so they stay active until then.
        with torch.enable_grad(), self._active():
            loss = F.mse_loss(self._run(noisy, timesteps, text, camera_matrices), target)
            gradients = torch.autograd.grad(
                loss * self._gradient_scale, tuple(self.parameters.values())
            )
        self._step(gradients)
        return float(loss.detach())

    def state_tensors(self) -> dict[str, Tensor]:
        """Return copies of the weights and of AdamW's moments by name, for a checkpoint."""
        tensors = {f"weights.{name}": p.detach().clone() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{name}.{key}"] = value.detach().clone()
        return tensors

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_tensors` returned; the next steps are then the same bit for bit.

        Raises:
            CheckpointError: names or shapes are not those of this adapter; nothing was changed.
        """
        keys = ("step", "exp_avg", "exp_avg_sq")
        shapes = {f"weights.{name}": p.shape for name, p in self.parameters.items()}
        if any(name.startswith("adam.") for name in tensors):
            for name, parameter in self.parameters.items():
                shapes |= {f"adam.{name}.{key}": parameter.shape for key in keys[1:]}
                shapes[f"adam.{name}.{keys[0]}"] = torch.Size()

        stored = {name: tensor.shape for name, tensor in tensors.items()}
        if stored != shapes:
            differing = sorted(dict(stored.items() ^ shapes.items()))
            raise CheckpointError(
                f"The checkpoint's LoRA does not fit this prior: {len(differing)} tensors differ in name or shape, "
                f"first {differing[0]}. Resume with the rank and the model of the checkpoint."
            )

        self._optimizer.state.clear()
        for name, parameter in self.parameters.items():
            with torch.no_grad():
                parameter.copy_(tensors[f"weights.{name}"])
            if f"adam.{name}.step" in tensors:
                # AdamW keeps its step count on the CPU, the moments beside their parameter.
                step, *moments = (tensors[f"adam.{name}.{key}"].clone() for key in keys)
                moved = (moment.to(parameter) for moment in moments)
                self._optimizer.state[parameter] = dict(
                    zip(keys, (step.cpu(), *moved), strict=True)
                )

    def remove(self) -> None:
        """Remove the adapter for good; restores the layers, names and `requires_grad` of the network."""
        if not self._attached:
            return

        self._tuner.unload()
        network = self.denoiser.network
        if hasattr(network, "peft_config"):
            del network.peft_config
        for parameter, required in self._required_grad.items():
            parameter.requires_grad_(required)
        self._attached = False

    @property
    def _gradient_scale(self) -> float:
        dtypes = (self.denoiser.network.dtype, self.denoiser.autocast)
        return FLOAT16_GRADIENT_SCALE if torch.float16 in dtypes else 1.0

    def _draw(
        self, latents: Tensor, n_views: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, bool]:
        """Return timesteps [B], noise [B, C, h, w] and whether to drop the cameras."""
        if len(latents) % n_views:
            raise ShapeError(
                f"A batch of {len(latents)} does not divide into groups of {n_views} views. "
                "Give all views of each object, adjacent."
            )

        n_groups, n_train = len(latents) // n_views, len(self.denoiser.noise_schedule)
        timesteps = torch.randint(n_train, (n_groups,), generator=generator).repeat_interleave(
            n_views
        )
        noise = torch.randn(latents.shape, generator=generator)
        drop_cameras = float(torch.rand((), generator=generator)) < self.camera_dropout
        return timesteps.to(latents.device), noise.to(latents.device), drop_cameras

    def _run(
        self, noisy: Tensor, timesteps: Tensor, text: TextEmbedding, camera_matrices: Tensor | None
    ) -> Tensor:
        """Return the network's raw output [B, C, h, w], with the embedded cameras in its time embedding."""
        if self._camera is None:
            return run_network(self.denoiser, noisy, timesteps, text, camera_matrices)

        if camera_matrices is None:
            camera_matrices = noisy.new_zeros(len(noisy), CAMERA_SIZE)
        embedded = self._camera(camera_matrices.float())
        handle = _time_embedding(self.denoiser).register_forward_hook(
            lambda module, inputs, output: output + embedded.to(output.dtype)
        )
        try:
            return run_network(self.denoiser, noisy, timesteps, text)
        finally:
            handle.remove()

    @contextmanager
    def _active(self) -> Iterator[None]:
        """Enable the low-rank layers inside the block."""
        if not self._attached:
            raise ConfigError("This LoRA was removed from its network. Make a new ScoreAdapter.")
        self._tuner.enable_adapter_layers()
        try:
            yield
        finally:
            self._tuner.disable_adapter_layers()

    def _step(self, gradients: tuple[Tensor, ...]) -> None:
        """Take an AdamW step, unless a gradient overflowed."""
        if not bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
            return

        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient / self._gradient_scale
        self._optimizer.step()
        self._optimizer.zero_grad()


def _time_embedding(denoiser: TorchDenoiser) -> nn.Module:
    """Return the module whose output [B, W] conditions every block on the timestep."""
    network: nn.Module = denoiser.network
    return network.get_submodule(
        "time_text_embed" if hasattr(network, "time_text_embed") else "time_embedding"
    )


def _camera_embedding(denoiser: TorchDenoiser) -> nn.Module:
    """Return two layers from [B, 16] to the width of the time embedding, as a UNet's own projected class embedding."""
    module = _time_embedding(denoiser)
    embedder = getattr(module, "timestep_embedder", module)
    width = embedder.get_parameter("linear_2.weight").shape[0]
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        linear_1=nn.Linear(CAMERA_SIZE, width), act=nn.SiLU(), linear_2=nn.Linear(width, width)
    )
    return nn.Sequential(layers).float().to(denoiser.device)


def _named_parameters(network: nn.Module, camera: nn.Module | None) -> dict[str, nn.Parameter]:
    """Return the trained parameters by stable names, converted to float32."""
    found: dict[str, nn.Parameter] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer):
            found[f"{name}.lora_A"] = layer.lora_A[ADAPTER_NAME].float().weight
            found[f"{name}.lora_B"] = layer.lora_B[ADAPTER_NAME].float().weight
    if camera is not None:
        found |= {f"camera.{name}": parameter for name, parameter in camera.named_parameters()}
    return found


@torch.no_grad()
def _initialize(parameters: Mapping[str, nn.Parameter], generator: torch.Generator) -> None:
    """Set the initial weights, the same on every device: zeros, or uniform in +-1 / sqrt(inputs).

    Source: Hu et al. 2021 (LoRA, arXiv 2106.09685), section 4.1: B starts at zero.
    """
    for name, parameter in parameters.items():
        if name.endswith(INITIALLY_ZERO):
            parameter.zero_()
        else:
            uniform = torch.rand(parameter.shape, generator=generator) * 2.0 - 1.0
            parameter.copy_(uniform / math.sqrt(parameter.shape[1]))

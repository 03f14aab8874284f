"""Stand-ins for the networks of a run, which cost nothing and count what the networks of real sizes would compute.

The run is the program's own: its loops, schedules, chains and guidances ask the networks at the sizes of a real run. A
stand-in answers with numbers of the right shape and adds the question to a `Tally`. Its operations are counted once
for each shape, on the architecture of published size on torch's device `meta`, where tensors have shapes and no values.

A backward pass is entered when it happens, by a hook on the answer, with the operations that torch counts in the
gradient of the network with respect to its pictures, the weights being frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from random_models import PRIORS, TEXT_TOKENS, critic_config, prior_networks
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import Qwen2_5_VLForConditionalGeneration

from vlm3d_gs.app.floors import operation_counter
from vlm3d_gs.critic.qwen.attention import use_fast_modules, vision_kwargs
from vlm3d_gs.critic.qwen.network import Reader
from vlm3d_gs.critic.qwen.transformers_qwen import TransformersQwen
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.prior.guidance import DiffusionPrior
from vlm3d_gs.prior.multiview import JointViewAttention, join_views

META = torch.device("meta")
LATENT_FACTOR = 8
"""Pixels along each side of one latent cell of Stable Diffusion's autoencoder."""
EVALUATIONS, ENCODES, DECODES, LOOKS = "evaluations", "encodes", "decodes", "looks"
BACKWARD = ", backward"
"""Kinds of questions in a `Tally`, and what is added to the name of one that is differentiated."""
Cost = tuple[int, int]
"""Floating-point operations of a forward pass, and of the backward pass to the pictures."""


@dataclass
class Tally:
    """What networks were asked: how often, and with how many floating-point operations."""

    asked: dict[str, int] = field(default_factory=dict)
    """By kind of question; a picture is one question to a prior, the views of a scene one to a critic."""
    operations: dict[str, int] = field(default_factory=dict)
    """By the same kinds."""
    asker: str = ""
    """Added to the kinds while it is set, to tell apart who asks."""

    def add(self, kind: str, number: int, operations: int) -> None:
        """Enter questions."""
        kind += self.asker
        self.asked[kind] = self.asked.get(kind, 0) + number
        self.operations[kind] = self.operations.get(kind, 0) + operations

    def enter(self, kind: str, number: int, cost: Cost, answer: Tensor) -> None:
        """Enter a forward pass now, and its backward pass when the answer's gradient arrives."""
        forward, backward = cost
        self.add(kind, number, forward)
        if answer.requires_grad:
            answer.register_hook(lambda _: self.add(kind + BACKWARD, number, backward))

    @contextmanager
    def asked_by(self, asker: str) -> Iterator[None]:
        """Add a name to the kinds of what is asked inside."""
        self.asker = asker
        try:
            yield
        finally:
            self.asker = ""

    def scaled(self, factor: float) -> Tally:
        """Return the same for a run that is longer by a factor."""
        return Tally(
            {kind: round(factor * number) for kind, number in self.asked.items()},
            {kind: round(factor * number) for kind, number in self.operations.items()},
        )

    def plus(self, other: Tally) -> Tally:
        """Return the sum of two."""
        total = Tally(dict(self.asked), dict(self.operations))
        for kind, number in other.asked.items():
            total.add(kind, number, other.operations[kind])
        return total


class PriorCosts:
    """Operations of a prior's networks, by shape."""

    def __init__(self, family: str, size: str = "full") -> None:
        """Build the networks on `meta`; arguments as for `random_models.random_prior`."""
        with META:
            self.unet, self.vae = prior_networks(family, size)
        for network in (self.unet, self.vae):
            network.requires_grad_(False).eval()
        self.text_width = PRIORS[size]["text"][0]
        self.denoise = cache(self._denoise)
        self.encode, self.decode = cache(self._encode), cache(self._decode)

    def _denoise(self, batch: int, cells: int, n_joint_views: int) -> int:
        """Return the operations for a batch of square latents, of which so many adjacent ones are denoised together.

        No loss differentiates the denoiser.
        """
        text = torch.empty(batch, TEXT_TOKENS, self.text_width, device=META)
        matrices = None
        if self.unet.config.class_embed_type == "projection":
            matrices = torch.empty(batch, 16, device=META)
            join_views(self.unet, n_joint_views)

        def network(noisy: Tensor) -> Tensor:
            return self.unet(
                noisy, torch.zeros(batch, device=META), text, class_labels=matrices
            ).sample

        forward, _ = count_operations(network, (batch, 4, cells, cells), backward=False)
        return forward

    def _encode(self, batch: int, side_px: int) -> Cost:
        """Return the cost of encoding square pictures."""
        return count_operations(
            lambda pixels: self.vae.encode(pixels).latent_dist.mean, (batch, 3, side_px, side_px)
        )

    def _decode(self, batch: int, cells: int) -> Cost:
        """Return the cost of decoding square latents."""
        return count_operations(
            lambda latents: self.vae.decode(latents).sample, (batch, 4, cells, cells)
        )


class CriticCosts:
    """Operations of a critic's network."""

    def __init__(self, name: str, folder: Path, *, fast_modules: bool = True) -> None:
        """Build the network on `meta`.

        Args:
            name: in `random_models.CRITICS`.
            folder: of any critic of `random_models`, for the tokenizer and the layout of patches.
            fast_modules: as in `YesNoModel`.
        """
        self.model = YesNoModel(
            folder, torch.device("cpu"), runtime="transformers", fast_modules=False
        )
        with META:
            network = Qwen2_5_VLForConditionalGeneration(critic_config(name))
        network.requires_grad_(False).eval()
        if fast_modules:
            use_fast_modules(network)

        qwen = self.model.qwen
        assert isinstance(qwen, TransformersQwen)
        qwen.network, qwen.device, self.model.device = network, META, META
        self.model._answer_rows = [rows.to(META) for rows in self.model._answer_rows]
        self.look, self.released_look = cache(self._look), cache(self._released_look)

    def _look(
        self,
        names: tuple[str, ...],
        questions: tuple[str, ...],
        size: tuple[int, ...],
        patches: int,
    ) -> Cost:
        """Return the cost of `YesNoModel.scene_log_odds`; the text before the first view is kept from earlier looks.

        Args:
            names: of the views.
            questions: asked about them.
            size: numbers of scenes and views, height and width.
            patches: of all scenes.
        """
        reader = self.model._reader(names, questions, size)

        return count_operations(reader, (patches, self._patch_values()))

    def _released_look(self, patches: int, grids: tuple[tuple[int, ...], ...], length: int) -> Cost:
        """Return the cost of the released critic's look (released.py): one message, logits of all tokens and words.

        Its steps stand here one by one, since those that read token ids cannot run on `meta`; they multiply nothing.

        Args:
            patches: of all views.
            grids: numbers of patches of each view along time, height and width.
            length: tokens of the message.
        """
        network, tower = self.model.network, self.model.network.model.visual
        kwargs = vision_kwargs(tower, torch.tensor(grids), META)
        ids = torch.zeros(1, length, dtype=torch.long, device=META)

        def logits(pixels: Tensor) -> Tensor:
            views = tower(pixels, **kwargs).pooler_output
            embeddings = network.get_input_embeddings()(ids)
            others = embeddings[:, : length - len(views)]
            output = network.model.language_model(
                inputs_embeds=torch.cat([others, views[None]], 1),
                position_ids=torch.zeros(3, 1, length, dtype=torch.long, device=META),
                use_cache=False,
            )
            return network.lm_head(output.last_hidden_state)

        return count_operations(logits, (patches, self._patch_values()))

    def _patch_values(self) -> int:
        layout = self.model.patch_layout
        return 3 * layout.temporal_patch_size * layout.patch_size**2


class _PlacesUnknown(TorchFunctionMode):
    """Lets `masked_scatter` run on `meta`, where a mask does not say how many places it has; no products are lost."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.masked_scatter:
            return func(*args, **(kwargs or {}))
        target, _, source = args
        return target + source.sum()


@torch.inference_mode(False)
@torch.enable_grad()
def count_operations(
    network: Callable[[Tensor], Tensor], shape: tuple[int, ...], *, backward: bool = True
) -> Cost:
    """Count the operations of a network on `meta`, and of the gradient with respect to its input of a shape.

    Without `backward` those of the gradient are 0.
    """
    pictures = torch.empty(shape, device=META, requires_grad=True)
    with operation_counter() as counter, _PlacesUnknown():
        # A copy, since the counter follows modules, whose inputs must not be leaves.
        answer = network(pictures.clone())
        forward = counter.get_total_flops()
        if backward:
            torch.autograd.grad(answer, pictures, torch.empty_like(answer))
        return forward, counter.get_total_flops() - forward


def stand_in_for_prior(prior: DiffusionPrior, costs: PriorCosts, tally: Tally) -> None:
    """Replace what a prior's networks compute, in place."""
    network, vae = prior.denoiser.network, prior.denoiser.vae

    def denoise(noisy: Tensor, *_: Any, **__: Any) -> SimpleNamespace:
        processors = (getattr(module, "processor", None) for module in network.modules())
        joint = next((p.n_views for p in processors if isinstance(p, JointViewAttention)), 1)
        tally.add(EVALUATIONS, len(noisy), costs.denoise(len(noisy), noisy.shape[-1], joint))
        return SimpleNamespace(sample=noisy)

    def encode(pixels: Tensor) -> SimpleNamespace:
        small = F.avg_pool2d(pixels, LATENT_FACTOR)
        latents = torch.cat([small, small.mean(1, keepdim=True)], 1)
        tally.enter(ENCODES, len(pixels), costs.encode(len(pixels), pixels.shape[-1]), latents)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=latents, std=0.0))

    def decode(latents: Tensor) -> SimpleNamespace:
        pixels = F.interpolate(latents[:, :3], scale_factor=LATENT_FACTOR)
        tally.enter(DECODES, len(latents), costs.decode(len(latents), latents.shape[-1]), pixels)
        return SimpleNamespace(sample=pixels)

    network.forward = denoise
    vae.encode, vae.decode = encode, decode


def stand_in_for_critic(model: YesNoModel, costs: CriticCosts, tally: Tally) -> None:
    """Replace what a critic's network computes in `YesNoModel.scene_log_odds`, in place."""

    def reader(names: tuple[str, ...], questions: tuple[str, ...], size: tuple[int, ...]) -> Reader:
        n_scenes = size[0]

        def log_odds(patches: Tensor) -> Tensor:
            cost = costs.look(names, questions, size, len(patches))
            odds = patches.unflatten(0, (n_scenes, -1)).mean((1, 2))
            odds = odds[:, None] * torch.linspace(0.5, 1.0, len(questions))
            tally.enter(LOOKS, n_scenes, cost, odds)
            return odds

        return log_odds

    model._reader = reader  # type: ignore[method-assign]


def stand_in_for_released_critic(model: YesNoModel, costs: CriticCosts, tally: Tally) -> None:
    """Replace what a critic's network computes in `released.released_log_odds`, in place."""

    def forward(
        *, input_ids: Tensor, pixel_values: Tensor, image_grid_thw: Tensor, **_: Any
    ) -> SimpleNamespace:
        grids = tuple(map(tuple, image_grid_thw.tolist()))
        cost = costs.released_look(len(pixel_values), grids, input_ids.shape[1])
        words = torch.linspace(0.0, 1.0, len(model.tokenizer))
        logits = pixel_values.mean() * words[None, None]
        tally.enter(LOOKS, 1, cost, logits)
        return SimpleNamespace(logits=logits)

    model.network.forward = forward

"""Targets: whole pictures that somebody drew of the scene, and the pool of those that it is still fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from vlm3d_gs.config.reconstruct import ReconstructConfig
from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views

CAMERA_TENSORS = ("viewmats", "Ks", "azimuths_deg", "elevations_deg", "distances")


@dataclass(frozen=True, slots=True)
class Chain:
    """How a round's pictures are drawn."""

    noise_level: float
    """Where the denoising begins, as a part of the training timesteps; 1 is pure noise."""
    steps: int
    """Denoising steps from there to a clean picture."""
    candidates: int
    """Chains for each group, of which the best is taken."""


@dataclass(frozen=True)
class Target:
    """One round's pictures."""

    cameras: Cameras
    """C cameras, the views of a group adjacent."""
    color: Tensor
    """[C, H, W, 3] in 0..1, of the cameras' size."""
    background: Tensor
    """[C, 3] colours before which the scene is fitted."""

    def groups(self, chosen: Sequence[int], n_views: int) -> Target:
        """Return some of the view groups, each of `n_views` views, in the order of their numbers in `chosen`."""
        if len(chosen) * n_views == len(self.cameras):
            return self

        # Slices, since a list of places would be copied to the device.
        places = [slice(group * n_views, (group + 1) * n_views) for group in chosen]
        views = [view for place in places for view in range(place.start, place.stop)]
        return Target(
            self.cameras.select(views),
            torch.cat([self.color[place] for place in places]),
            torch.cat([self.background[place] for place in places]),
        )


class TargetSource(Protocol):
    """Anything that draws what the scene should look like from given views."""

    @property
    def name(self) -> str:
        """Prefix of its scalars in the log."""

    def azimuth_range_deg(self, chain: Chain, progress: Progress) -> tuple[float, float] | None:
        """Return the range of azimuth offsets of a view group that it can draw; None for any."""

    def draw(
        self, views: Views, chain: Chain, progress: Progress
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Return pictures [C, H, W, 3] of the views, without graph, and scalars for the log."""


@dataclass
class TargetPool:
    """The targets of the last rounds, and the fits of the present one."""

    targets: list[Target] = field(default_factory=list)
    """Newest last."""
    rounds: int = 0
    """Begun so far."""
    fits: int = 0
    """Of the present round."""
    fits_done: int = 0
    """Of these."""

    @property
    def is_round_over(self) -> bool:
        """Whether the next step needs a new target."""
        return self.fits_done >= self.fits

    def begin_round(self, target: Target, fits: int, size: int) -> None:
        """Add a target, forget those beyond `size`, and plan its fits."""
        self.targets = [*self.targets, target][-size:]
        self.rounds += 1
        self.fits, self.fits_done = fits, 0

    def take(self, generator: torch.Generator) -> tuple[Target, int]:
        """Return the target of the next fit, every other time the newest, else any; and how often it was taken before.

        Args:
            generator: of the choice, on the CPU.
        """
        turn = self.fits_done
        self.fits_done += 1
        if len(self.targets) == 1:
            return self.targets[-1], turn
        if turn % 2 == 0:
            return self.targets[-1], turn // 2
        chosen = int(torch.randint(len(self.targets), (1,), generator=generator))
        return self.targets[chosen], turn // 2

    def state_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold."""
        tensors = {"fits": torch.tensor([self.rounds, self.fits, self.fits_done])}
        for place, target in enumerate(self.targets):
            tensors[f"{place}.color"] = target.color
            tensors[f"{place}.background"] = target.background
            tensors |= {f"{place}.{name}": getattr(target.cameras, name) for name in CAMERA_TENSORS}
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Restore what `state_tensors` returned."""
        if "fits" not in tensors:
            return
        self.rounds, self.fits, self.fits_done = tensors["fits"].tolist()

        self.targets = []
        while f"{len(self.targets)}.color" in tensors:
            place = len(self.targets)
            color = tensors[f"{place}.color"].to(device)
            poses = {name: tensors[f"{place}.{name}"] for name in CAMERA_TENSORS}
            cameras = Cameras(**poses, width=color.shape[2], height=color.shape[1])
            background = tensors[f"{place}.background"].to(device)
            self.targets.append(Target(cameras, color, background))


class PixelFit:
    """Pulls renders towards a target: squared and absolute difference of the pixels, summed, a mean over views."""

    name = "fit"

    def __init__(self, target: Target, config: ReconstructConfig) -> None:
        self.target, self.config = target, config

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        """Return the gradient of the pixel loss on the colours of views of the target's cameras."""
        difference = views.color - self.target.color
        squared, absolute, count = self.config.squared, self.config.absolute, len(difference)

        loss = 0.5 * squared * difference.square().sum() + absolute * difference.abs().sum()
        gradient = (squared * difference + absolute * difference.sign()) / count
        return GuidanceOutput(gradient, {"loss": loss / count})


def border_colors(pictures: Tensor) -> Tensor:
    """Return [C, 3] median colours of the outermost pixels of [C, H, W, 3] pictures."""
    edges = (pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1])
    return torch.cat(edges, 1).median(1).values

"""Views of a step, divided among processes: each draws its own, and the gradients on the scene are added up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians, validate
from vlm3d_gs.render import Backend, Rendering, render
from vlm3d_gs.spread.ranks import Ranks


@dataclass(frozen=True)
class DividedRenderer:
    """Renders as `render.render` does; the pictures are the same, their gradients up to the order of a sum."""

    ranks: Ranks
    """The processes."""
    steps_done: Callable[[], int]
    """By the run."""

    def __call__(
        self,
        gaussians: Gaussians,
        cameras: Cameras,
        *,
        backend: Backend = "auto",
        background: Tensor | tuple[float, float, float] | None = None,
        check: bool = True,
    ) -> Rendering:
        """Render all views; arguments, result and errors as those of `render.render`, and of `Ranks.agree`."""
        ranks = self.ranks
        if not ranks.is_connected:
            return render(gaussians, cameras, backend=backend, background=background, check=check)
        if check:
            validate(gaussians)  # before the others wait for this process's views
        ranks.agree(self.steps_done(), len(gaussians))

        # The own views are drawn from leaves of their own, with a graph that `_Gathered` goes back through.
        shares = ranks.shares(len(cameras))
        own = shares[ranks.rank]
        leaves = {name: value.detach() for name, value in gaussians.parameters().items()}
        wanted = torch.is_grad_enabled() and any(
            value.requires_grad for value in gaussians.parameters().values()
        )
        if wanted:
            for leaf in leaves.values():
                leaf.requires_grad_()
        drawn = render(
            gaussians.changed(leaves),
            cameras.select(own),
            backend=backend,
            background=background[own]
            if isinstance(background, Tensor) and background.ndim == 2
            else background,
            check=False,
        )
        whole = _whole(drawn, ranks, shares)
        if not wanted:
            return whole

        job = _Job(ranks, shares, drawn, list(leaves.values()), whole.means2d)
        pictures = _Gathered.apply(job, *whole[:3], *gaussians.parameters().values())
        color, alpha, depth = pictures
        return Rendering(color, alpha, depth, whole.radii, whole.means2d)


def _whole(drawn: Rendering, ranks: Ranks, shares: list[slice]) -> Rendering:
    """Return the pictures of all processes without graph, in one exchange."""
    parts = [value.detach() for value in drawn]
    packed = torch.cat([part.flatten(1).to(drawn.color.dtype) for part in parts], 1)
    together = ranks.gathered(packed, shares)
    columns = together.split([math.prod(part.shape[1:]) for part in parts], 1)
    pairs = zip(columns, parts, strict=True)
    return Rendering(*(value.unflatten(1, like.shape[1:]).to(like.dtype) for value, like in pairs))


@dataclass(frozen=True)
class _Job:
    """What a backward pass needs."""

    ranks: Ranks
    shares: list[slice]
    drawn: Rendering
    """The own views, on the graph of `leaves`."""
    leaves: list[Tensor]
    means2d: Tensor
    """Of all views; its `.grad` is filled."""


class _Gathered(torch.autograd.Function):
    """Pictures of all views as functions of the scene."""

    @staticmethod
    def forward(
        ctx: Any, job: _Job, color: Tensor, alpha: Tensor, depth: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.job = job
        return color.clone(), alpha.clone(), depth.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        job = ctx.job
        own = job.shares[job.ranks.rank]
        on_scene = [torch.zeros_like(leaf) for leaf in job.leaves]
        on_centers = torch.zeros_like(job.drawn.means2d)
        if own.stop > own.start:
            *on_scene, on_centers = torch.autograd.grad(
                job.drawn[:3],
                [*job.leaves, job.drawn.means2d],
                [gradient[own] for gradient in gradients],
                retain_graph=True,  # the gradient of a critic is taken first, where it is kept
                materialize_grads=True,
            )

        centers = job.ranks.gathered(on_centers.detach(), job.shares)
        job.means2d.grad = centers if job.means2d.grad is None else job.means2d.grad + centers
        return None, None, None, None, *job.ranks.summed(on_scene)

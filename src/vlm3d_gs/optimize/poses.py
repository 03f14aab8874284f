"""Whole things moved, turned about z and scaled until those that should touch do, and none reaches into another.

The few numbers of each pose are parameters beside the Gaussians, which stay as they are in the thing's own frame. A
thing is known here by points of its outer surface and by the distance to that surface around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS, RATE = 120, 0.01
"""Adam's steps and its rate, which falls to a tenth."""
DEEPEST = 6
"""A thing touches another by this many of its points, so that one speck decides nothing."""
OVERLAP, CONTACT, ANCHOR = 1.0, 1.0, 0.003
"""Weights of the terms, all squares of world units."""
CARRIED = 4.0
"""Anchor of turn and scale, in multiples of that of places: a thing would rather move than change."""


@dataclass(frozen=True, eq=False)
class Body:
    """The outer surface of a thing in its own frame."""

    points: Tensor
    """[P, 3] spread over it."""
    distance: Tensor
    """[D, D, D] distance to it at the corners of a grid, by z, y, x; negative inside."""
    middle: Tensor
    """[3] of the grid."""
    reach: Tensor
    """[3] half sides of the grid."""

    def distance_at(self, places: Tensor) -> Tensor:
        """Return the distance [N] of places [N, 3] from the surface, differentiable.

        Exact inside the grid up to interpolation. Beyond it, the way to the grid and that of its side are added, which
        is a little too long where the two do not lie in one line.
        """
        unit = (places - self.middle) / self.reach
        near = unit.clamp(-1.0, 1.0)
        found = F.grid_sample(
            self.distance[None, None],
            near[None, None, None],
            mode="bilinear",
            align_corners=True,
        ).reshape(-1)
        beyond = ((unit - near) * self.reach).square().sum(-1)
        return found + (beyond + 1e-12).sqrt()


@dataclass(frozen=True, eq=False)
class Poses:
    """Where T things stand: p of a thing's own frame is at scale * turn(p) + place."""

    places: Tensor
    """[T, 3] world units."""
    turns_rad: Tensor
    """[T] about z, counter-clockwise seen from above."""
    log_scales: Tensor
    """[T] natural logarithms."""

    def to_world(self, thing: int, points: Tensor) -> Tensor:
        """Return points [N, 3] of a thing's own frame in the world."""
        turned = _about_z(points, self.turns_rad[thing])
        return self.log_scales[thing].exp() * turned + self.places[thing]

    def to_own(self, thing: int, points: Tensor) -> Tensor:
        """Return points [N, 3] of the world in a thing's own frame."""
        back = (points - self.places[thing]) / self.log_scales[thing].exp()
        return _about_z(back, -self.turns_rad[thing])


@dataclass(frozen=True, eq=False)
class Settled:
    """Poses after settling, and how well things stood before and after."""

    poses: Poses
    gaps: tuple[float, float]
    """Largest distance between two that should touch, whichever way they miss, before and after, world units."""
    depths: tuple[float, float]
    """Largest depth by which one reaches into another that it should not, before and after."""


def settle(
    bodies: Sequence[Body],
    poses: Poses,
    touching: Sequence[tuple[int, int]],
    apart: Sequence[tuple[int, int]],
    carried: Sequence[bool],
    *,
    steps: int = STEPS,
) -> Settled:
    """Move things as little as makes pairs touch or stay apart.

    The gap of two things is the mean of the `DEEPEST` smallest distances of the one's points from the other's surface,
    the smaller of both ways. Its square is the contact term, and the square of its negative part the overlap term. An
    anchor, the squared distance from where things stood, keeps what the layout found. The best poses of all steps by
    the two terms are returned, so things never stand worse than they did.

    Args:
        bodies: T things.
        poses: where they stand; not changed.
        touching: pairs that should touch.
        apart: pairs that must not reach into each other.
        carried: whether a thing rests on another; only those move up and down and change their size, so that all others
            stay on their floor. Sideways move only things that reach into others, or touch beside each other.
        steps: of Adam.
    """
    start = [poses.places, poses.turns_rad, poses.log_scales]
    leaves = [value.detach().clone().requires_grad_() for value in start]
    moving = Poses(*leaves)
    adam = torch.optim.Adam(leaves, lr=RATE)
    fall = torch.optim.lr_scheduler.ExponentialLR(adam, 0.1 ** (1.0 / max(steps, 1)))

    rising = poses.places.new_tensor([float(one) for one in carried])
    sliding = poses.places.new_zeros(len(bodies), 1)
    for pair in (*_beside(touching, carried), *_reaching(bodies, poses, apart)):
        sliding[list(pair)] = 1.0
    free = torch.cat([sliding.expand(-1, 2), rising[:, None]], dim=1)

    best, least = poses, _trouble(bodies, poses, touching, apart)
    for _ in range(steps):
        loss = _misfit(bodies, moving, touching, apart)
        for value, anchor, weight in zip(leaves, start, (1.0, CARRIED, CARRIED), strict=True):
            loss = loss + ANCHOR * weight * (value - anchor).square().sum()
        places, turns, scales = torch.autograd.grad(loss, leaves)
        leaves[0].grad, leaves[1].grad = places * free, turns * sliding[:, 0]
        leaves[2].grad = scales * rising
        adam.step()
        fall.step()

        trouble = _trouble(bodies, moving, touching, apart)
        if sum(trouble) < sum(least):
            best, least = Poses(*(value.detach().clone() for value in leaves)), trouble

    before = _trouble(bodies, poses, touching, apart)
    return Settled(best, (before[0], least[0]), (before[1], least[1]))


def gap(bodies: Sequence[Body], poses: Poses, one: int, other: int) -> Tensor:
    """Return by how much two things stand apart; negative where one reaches into the other. Differentiable."""
    ways = []
    for first, second in ((one, other), (other, one)):
        points = poses.to_own(second, poses.to_world(first, bodies[first].points))
        distances = bodies[second].distance_at(points) * poses.log_scales[second].exp()
        ways.append(distances.topk(min(DEEPEST, len(distances)), largest=False).values.mean())
    return torch.stack(ways).amin()


def _beside(touching: Sequence[tuple[int, int]], carried: Sequence[bool]) -> list[tuple[int, int]]:
    """Return the pairs of which none rests on the other."""
    return [(one, other) for one, other in touching if not (carried[one] or carried[other])]


@torch.no_grad()
def _reaching(
    bodies: Sequence[Body], poses: Poses, apart: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return the pairs of which one reaches into the other."""
    return [pair for pair in apart if float(gap(bodies, poses, *pair)) < 0.0]


def _misfit(
    bodies: Sequence[Body],
    poses: Poses,
    touching: Sequence[tuple[int, int]],
    apart: Sequence[tuple[int, int]],
) -> Tensor:
    loss = poses.places.new_zeros(())
    for one, other in touching:
        loss = loss + CONTACT * gap(bodies, poses, one, other).square()
    for one, other in apart:
        loss = loss + OVERLAP * gap(bodies, poses, one, other).clamp(max=0.0).square()
    return loss


@torch.no_grad()
def _trouble(
    bodies: Sequence[Body],
    poses: Poses,
    touching: Sequence[tuple[int, int]],
    apart: Sequence[tuple[int, int]],
) -> tuple[float, float]:
    """Return the largest gap or depth of those that should touch, and the largest depth of those that should not."""
    gaps = [abs(float(gap(bodies, poses, *pair))) for pair in touching]
    depths = [-min(0.0, float(gap(bodies, poses, *pair))) for pair in apart]
    return max(gaps, default=0.0), max(depths, default=0.0)


def _about_z(points: Tensor, angle: Tensor) -> Tensor:
    cosine, sine = angle.cos(), angle.sin()
    x, y, z = points.unbind(-1)
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y, z], -1)

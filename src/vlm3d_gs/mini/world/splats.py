"""Scenes of the mini world as Gaussians, clean or damaged on purpose.

Clean splats test the composition checker; damaged ones test it too, and are training data from which the embedded
critic learns what floaters, holes, noise, blur, haze and inconsistent sides look like in our own renderer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians, concatenate
from vlm3d_gs.mini.world import raycast as rc
from vlm3d_gs.mini.world.scenes import PALETTE, SceneSpec
from vlm3d_gs.mini.world.surfaces import sample_surface, surface_area

DAMAGES = ("floaters", "holes", "noise", "blur", "haze", "inconsistent")
COVER = 0.6
"""Standard deviation along the surface, in units of the mean distance between samples."""
INSET = 1.2
"""Shift of the samples into the object, in standard deviations: a splat extends beyond its centre."""
THICKNESS = 0.3
"""Ratio of the standard deviation across the surface to that along it."""
GREY = 0.5
"""Colour of haze: in failed runs it imitates the plain background."""


def scene_to_gaussians(
    scene: SceneSpec, n: int, generator: torch.Generator, *, opacity: float = 0.97
) -> Gaussians:
    """Cover the surfaces of a scene with flat Gaussians, lit as the ray caster lights them.

    Args:
        scene: one or two objects.
        n: total number of Gaussians, distributed by area.
        generator: random start of the even sampling, on the CPU.
        opacity: of each Gaussian, in (0, 1).

    Returns:
        About n Gaussians (rounding per object), float32, degree 0.

    Raises:
        ConfigError: fewer Gaussians than objects, or opacity out of range.
    """
    if n < len(scene.objects) or not 0.0 < opacity < 1.0:
        raise ConfigError(
            f"scene_to_gaussians needs n >= {len(scene.objects)} and opacity in (0, 1), "
            f"got {n} and {opacity}."
        )

    areas = [surface_area(item.shape) * item.size**2 for item in scene.objects]
    spacing = math.sqrt(sum(areas) / n)

    objects = []
    for item, area in zip(scene.objects, areas, strict=True):
        count = max(1, round(n * area / sum(areas)))
        points, normals = sample_surface(item.shape, count, generator)

        # Smooth surfaces are shifted along their normals, those with edges towards the centre.
        inward = normals if item.shape in ("sphere", "torus") else points
        means = points * item.size - inward * (INSET * COVER * spacing)
        means += torch.tensor(item.center, dtype=torch.float64)

        shade = rc.AMBIENT + rc.DIFFUSE * (normals @ torch.from_numpy(rc.LIGHT))
        colors = shade[:, None] * torch.tensor(PALETTE[item.color], dtype=torch.float64)
        scales = means.new_tensor([1.0, 1.0, THICKNESS]).expand(count, 3) * (COVER * spacing)
        objects.append(_gaussians(means, scales, _facing(normals), colors, opacity))

    return concatenate(objects)


def damage(
    gaussians: Gaussians, kind: str, strength: float, generator: torch.Generator
) -> Gaussians:
    """Damage a scene in one way.

    Args:
        gaussians: a scene inside the unit ball.
        kind: one of `DAMAGES`: `floaters` (small blobs in empty space), `holes` (balls cut out of the surface),
            `noise` (colours and positions jittered), `blur` (Gaussians inflated and made more transparent),
            `haze` (many faint grey Gaussians), `inconsistent` (another colour on one side, or one side drawn twice).
        strength: 0 (unchanged) to 1 (obvious).
        generator: on the CPU.

    Returns:
        New Gaussians; the number may differ.

    Raises:
        ConfigError: unknown kind, or strength out of range.
    """
    if not 0.0 <= strength <= 1.0:
        raise ConfigError(f"damage strength must be in [0, 1], got {strength}.")
    if kind not in DAMAGES:
        raise ConfigError(f"Unknown damage {kind!r}. Known: {', '.join(DAMAGES)}.")
    if strength == 0.0:
        return gaussians

    if kind == "floaters":
        return _add_floaters(gaussians, strength, generator)
    if kind == "holes":
        return _cut_holes(gaussians, strength, generator)
    if kind == "noise":
        return _add_noise(gaussians, strength, generator)
    if kind == "blur":
        return _blur(gaussians, strength)
    if kind == "haze":
        return _add_haze(gaussians, strength, generator)
    return _split_sides(gaussians, strength, generator)


def _add_floaters(gaussians: Gaussians, strength: float, generator: torch.Generator) -> Gaussians:
    """Add small blobs of a few Gaussians each in empty space, in any colour."""
    n_blobs, blob_size = 2 + round(18 * strength), 6
    centers = _empty_spots(gaussians, n_blobs, generator)
    offsets = 0.03 * torch.randn(n_blobs, blob_size, 3, generator=generator, dtype=torch.float64)
    means = (centers[:, None] + offsets).reshape(-1, 3)

    scales = torch.empty(n_blobs * blob_size, 3, dtype=torch.float64).uniform_(
        0.015, 0.045, generator=generator
    )
    colors = torch.rand(n_blobs, 1, 3, generator=generator, dtype=torch.float64)
    colors = colors.expand(n_blobs, blob_size, 3).reshape(-1, 3)

    return concatenate([gaussians, _like(gaussians, means, scales, colors, 0.85)])


def _cut_holes(gaussians: Gaussians, strength: float, generator: torch.Generator) -> Gaussians:
    """Remove all Gaussians inside a few balls centred on the surface."""
    keep = torch.ones(len(gaussians), dtype=torch.bool)
    means = gaussians.means.detach().cpu()
    for _ in range(1 + round(3 * strength)):
        center = means[torch.randint(len(means), (1,), generator=generator)]
        radius = 0.10 + 0.18 * strength * float(torch.rand(1, generator=generator) + 0.5)
        keep &= (means - center).norm(dim=-1) > radius

    # A scene needs at least one Gaussian.
    if not bool(keep.any()):
        keep[0] = True

    return gaussians.select(keep.to(gaussians.device))


def _add_noise(gaussians: Gaussians, strength: float, generator: torch.Generator) -> Gaussians:
    """Jitter colours and positions of every Gaussian."""
    color = torch.randn(len(gaussians), 1, 3, generator=generator) * (0.35 * strength / SH_C0)
    place = torch.randn(len(gaussians), 3, generator=generator) * (0.05 * strength)
    sh = gaussians.sh.clone()
    sh[:, :1] += color.to(sh)
    parameters = gaussians.parameters()
    means = gaussians.means + place.to(gaussians.means)
    return Gaussians.from_parameters({**parameters, "sh": sh, "means": means})


def _blur(gaussians: Gaussians, strength: float) -> Gaussians:
    """Inflate every Gaussian, up to several times, in all directions, and make it more transparent."""
    scales = gaussians.scales
    round_scale = scales.amax(dim=-1, keepdim=True).expand_as(scales)
    inflated = (1.0 - strength) * scales + strength * (2.0 * round_scale + 0.06)
    opacity_logits = gaussians.opacity_logits - 2.5 * strength
    parameters = gaussians.parameters()

    return Gaussians.from_parameters(
        {**parameters, "log_scales": inflated.log(), "opacity_logits": opacity_logits}
    )


def _add_haze(gaussians: Gaussians, strength: float, generator: torch.Generator) -> Gaussians:
    """Fill the ball around the object with faint grey Gaussians."""
    count = 60 + round(340 * strength)
    means = _in_ball(count, 0.95, generator)
    scales = torch.empty(count, 3, dtype=torch.float64).uniform_(0.05, 0.14, generator=generator)
    colors = torch.full((count, 3), GREY, dtype=torch.float64)
    haze = _like(gaussians, means, scales, colors, 0.04 + 0.12 * strength)
    return concatenate([gaussians, haze])


def _split_sides(gaussians: Gaussians, strength: float, generator: torch.Generator) -> Gaussians:
    """Recolour one side of the scene, or draw it a second time beside itself.

    The cut goes through the surface around a random Gaussian, never between two objects: one of two objects in another
    colour would be a clean scene.
    """
    angle = 2.0 * math.pi * float(torch.rand(1, generator=generator))
    direction = gaussians.means.new_tensor([math.cos(angle), math.sin(angle), 0.0])
    along = gaussians.means @ direction

    # The cut lies among the quarter of the Gaussians that are nearest to a random one.
    center = gaussians.means[int(torch.randint(len(gaussians), (1,), generator=generator))]
    distance = (gaussians.means - center).norm(dim=-1)
    around = distance <= distance.kthvalue(max(1, len(gaussians) // 4)).values
    side = along > torch.quantile(along[around], 1.0 - 0.5 * strength)
    if not bool(side.any()):
        side = along >= along.max()

    if float(torch.rand(1, generator=generator)) < 0.5:
        sh = gaussians.sh.clone()
        sh[side, 0] = _other_color(sh[side, 0].mean(0), generator)
        return Gaussians.from_parameters({**gaussians.parameters(), "sh": sh})

    half = gaussians.select(side)
    across = gaussians.means.new_tensor([-math.sin(angle), math.cos(angle), 0.6])
    moved = half.means + (0.2 + 0.25 * strength) * across
    second = Gaussians.from_parameters({**half.parameters(), "means": moved})

    return concatenate([gaussians, second])


def _other_color(mean: Tensor, generator: torch.Generator) -> Tensor:
    """Return the degree-0 harmonic [3] of a palette colour far from `mean`."""
    palette = (0.8 * mean.new_tensor(list(PALETTE.values())) - 0.5) / SH_C0
    far = (palette - mean).norm(dim=-1).argsort()[len(palette) // 2 :]
    return palette[far[int(torch.randint(len(far), (1,), generator=generator))]]


def _empty_spots(gaussians: Gaussians, count: int, generator: torch.Generator) -> Tensor:
    """Return [count, 3] places in the ball that are far from any Gaussian, of many random ones."""
    candidates = _in_ball(count * 8, 0.95, generator)
    distance = torch.cdist(candidates, gaussians.means.detach().cpu().double()).amin(dim=1)
    clear = distance + 0.3 * torch.rand(len(distance), generator=generator, dtype=torch.float64)
    return candidates[clear.topk(count).indices]


def _in_ball(count: int, radius: float, generator: torch.Generator) -> Tensor:
    direction = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    direction /= direction.norm(dim=-1, keepdim=True)
    reach = torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1.0 / 3.0)
    return radius * reach * direction


def _facing(normals: Tensor) -> Tensor:
    """Return unit quaternions wxyz that rotate z onto the normals."""
    x, y, z = normals.unbind(-1)
    quats = torch.stack([1.0 + z, -y, x, torch.zeros_like(z)], dim=-1)
    # The half-way formula is undefined for the opposite direction: half a turn about x.
    quats[z < -0.999999] = normals.new_tensor([0.0, 1.0, 0.0, 0.0])
    return quats / quats.norm(dim=-1, keepdim=True)


def _like(
    model: Gaussians, means: Tensor, scales: Tensor, colors: Tensor, opacity: float
) -> Gaussians:
    """Return axis-aligned Gaussians with the harmonics' degree, dtype and device of `model`."""
    quats = means.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(len(means), 4)
    made = _gaussians(means, scales, quats, colors, opacity)
    sh = torch.nn.functional.pad(made.sh, (0, 0, 0, model.sh.shape[1] - 1))
    made = Gaussians.from_parameters({**made.parameters(), "sh": sh})
    return made.to(model.device, model.dtype)


def _gaussians(
    means: Tensor, scales: Tensor, quats: Tensor, colors: Tensor, opacity: float
) -> Gaussians:
    logit = math.log(opacity / (1.0 - opacity))
    return Gaussians(
        means=means.float(),
        log_scales=scales.log().float(),
        quats=quats.float().contiguous(),
        opacity_logits=torch.full((len(means),), logit),
        sh=((colors - 0.5) / SH_C0).float()[:, None, :],
    )

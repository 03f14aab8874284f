"""Gaussians: the scene as raw parameters, and the activated values derived from them.

Letters: N Gaussians, K spherical-harmonics coefficients per channel. World frame: z up, the front
towards +x, the object inside the unit ball (docs/CONVENTIONS.md). Knows nothing of cameras or
rendering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs.core.bands import degree_of
from vlm3d_gs.core.checks import expect_finite, expect_same_device, expect_shape
from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.core.harmonics import sh0_to_rgb
from vlm3d_gs.core.rotations import compose_covariances, quat_to_rotmat

PARAMETER_NAMES = ("means", "log_scales", "quats", "opacity_logits", "sh")


@dataclass(frozen=True, eq=False, repr=False)
class Gaussians:
    """N anisotropic 3D Gaussians, stored as the raw parameters that are optimised.

    Construction checks shapes, dtypes and devices (`ShapeError`), not values; see `validate`. Every
    property is differentiable in the parameters that it depends on.
    """

    means: Tensor
    """[N, 3] centres, world units."""
    log_scales: Tensor
    """[N, 3] natural logarithms of the standard deviations along the local axes, world units."""
    quats: Tensor
    """[N, 4] rotation of the local axes, wxyz, any norm; zero means the identity."""
    opacity_logits: Tensor
    """[N] opacity before the sigmoid."""
    sh: Tensor
    """[N, K, 3] colour coefficients, K in {1, 4, 9, 16}."""
    antialiased: bool = False
    """Whether the opacities are meant for pictures with Mip-Splatting's filter, as docs/CONVENTIONS.md defines them;
    every renderer obeys it, and files that can say so keep it."""

    def __post_init__(self) -> None:
        count = expect_shape("gaussians.means", self.means, ("N", 3))["N"]
        expect_shape("gaussians.log_scales", self.log_scales, (count, 3))
        expect_shape("gaussians.quats", self.quats, (count, 4))
        expect_shape("gaussians.opacity_logits", self.opacity_logits, (count,))
        degree_of(expect_shape("gaussians.sh", self.sh, (count, "K", 3))["K"])

        for name, tensor in self.parameters().items():
            if tensor.dtype != self.means.dtype or not tensor.is_floating_point():
                raise ShapeError(
                    f"gaussians.{name} is {tensor.dtype}, but gaussians.means is {self.means.dtype}; "
                    "all parameters must share one floating dtype."
                )

        expect_same_device(
            {f"gaussians.{name}": value for name, value in self.parameters().items()}
        )

    def __len__(self) -> int:
        return self.means.shape[0]

    def __repr__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        more = ", antialiased" if self.antialiased else ""
        return f"Gaussians({len(self)}, SH degree {self.sh_degree}, {kind} on {self.device}{more})"

    @property
    def device(self) -> torch.device:
        """Device of all parameters."""
        return self.means.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of all parameters."""
        return self.means.dtype

    @property
    def sh_degree(self) -> int:
        """Spherical-harmonics degree, 0 to 3."""
        return degree_of(self.sh.shape[1])

    @property
    def scales(self) -> Tensor:
        """[N, 3] standard deviations, world units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """[N] opacities in 0..1."""
        return self.opacity_logits.sigmoid()

    @property
    def rotations(self) -> Tensor:
        """[N, 3, 3] rotation matrices; the columns are the local axes in the world."""
        return quat_to_rotmat(self.quats)

    @property
    def covariances(self) -> Tensor:
        """[N, 3, 3] world covariances, world units squared."""
        return compose_covariances(self.quats, self.scales)

    @property
    def colors(self) -> Tensor:
        """[N, 3] colours of degree 0, clamped below at 0, sRGB."""
        return sh0_to_rgb(self.sh[:, 0]).clamp(min=0.0)

    def parameters(self) -> dict[str, Tensor]:
        """Return the raw tensors by name, in a fixed order, not copied."""
        return {name: getattr(self, name) for name in PARAMETER_NAMES}

    def changed(self, parameters: Mapping[str, Tensor]) -> Gaussians:
        """Return a scene with other tensors under these names, about which all else is true as well.

        Raises:
            ShapeError: the shapes do not match.
        """
        changes: dict[str, Any] = dict(parameters)
        return replace(self, **changes)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Tensor]) -> Gaussians:
        """Return the scene with these raw tensors; the inverse of `parameters`.

        Raises:
            ConfigError: a name is missing or unknown.
            ShapeError: the shapes do not match.
        """
        if set(parameters) != set(PARAMETER_NAMES):
            raise ConfigError(
                f"Gaussians are made of {', '.join(PARAMETER_NAMES)}; got {', '.join(sorted(parameters)) or 'nothing'}."
            )
        tensors: dict[str, Any] = dict(parameters)
        return cls(**tensors)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Gaussians:
        """Return the scene on another device or in another floating type (differentiably, as `Tensor.to`)."""
        return self.changed(
            {
                name: value.to(device=device, dtype=dtype)
                for name, value in self.parameters().items()
            }
        )

    def detach(self) -> Gaussians:
        """Return the scene detached from the graph, sharing memory."""
        return self.changed({name: value.detach() for name, value in self.parameters().items()})

    def clone(self) -> Gaussians:
        """Return a copy with its own memory (differentiably, as `Tensor.clone`)."""
        return self.changed({name: value.clone() for name, value in self.parameters().items()})

    def requires_grad_(self, requires_grad: bool = True) -> Gaussians:
        """Switch gradients of all parameters on or off, in place, and return self."""
        for value in self.parameters().values():
            value.requires_grad_(requires_grad)
        return self

    def select(self, index: Tensor) -> Gaussians:
        """Return some of the Gaussians.

        Args:
            index: [N] bool mask, or integer indices of any length.

        Raises:
            ShapeError: a mask whose length is not N.
        """
        if index.dtype == torch.bool:
            expect_shape("index", index, (len(self),))
        return self.changed({name: value[index] for name, value in self.parameters().items()})


def concatenate(scenes: Sequence[Gaussians]) -> Gaussians:
    """Return all Gaussians of several scenes as one, in order.

    Raises:
        ConfigError: the sequence is empty, or some of the scenes are antialiased and others are not.
        ShapeError: the scenes have different spherical-harmonics degrees, dtypes or devices.
    """
    if not scenes:
        raise ConfigError("concatenate needs at least one scene, got an empty sequence.")

    degrees = sorted({scene.sh_degree for scene in scenes})
    if len(degrees) > 1:
        raise ShapeError(
            f"All scenes must have the same spherical-harmonics degree, got {degrees}. Use with_sh_degree."
        )

    kinds = sorted({f"{scene.dtype} on {scene.device}" for scene in scenes})
    if len(kinds) > 1:
        raise ShapeError(
            f"All scenes must share dtype and device, got {', '.join(kinds)}. Use .to(...)."
        )

    if len({scene.antialiased for scene in scenes}) > 1:
        raise ConfigError(
            "All scenes must be antialiased or none, since one picture is drawn with the filter or without it."
        )
    return scenes[0].changed(
        {name: torch.cat([getattr(scene, name) for scene in scenes]) for name in PARAMETER_NAMES}
    )


def with_sh_degree(gaussians: Gaussians, degree: int) -> Gaussians:
    """Return the same scene with another spherical-harmonics degree: truncated, or padded with zeros.

    Raises:
        ConfigError: the degree is not 0, 1, 2 or 3.
    """
    if degree not in range(4):
        raise ConfigError(f"The spherical-harmonics degree must be 0, 1, 2 or 3, got {degree}.")
    missing = (degree + 1) ** 2 - gaussians.sh.shape[1]
    sh = gaussians.sh[:, : (degree + 1) ** 2]
    if missing > 0:
        sh = torch.cat([sh, sh.new_zeros(len(gaussians), missing, 3)], dim=1)
    return gaussians.changed({"sh": sh})


def seems_finite(gaussians: Gaussians) -> Tensor:
    """Return, on the device, whether the sum of each parameter is finite; false means NaN, infinity or overflow."""
    sums = [value.detach().sum() for value in gaussians.parameters().values()]
    return torch.stack(sums).isfinite().all()


def validate(gaussians: Gaussians) -> None:
    """Require that every parameter is finite.

    Raises:
        NotFiniteError: a value is NaN or infinite; the message names the parameter and the first
            such Gaussian.
    """
    # One read in the usual case, so that a GPU synchronises once and not once per parameter.
    if bool(seems_finite(gaussians)):
        return

    for name, value in gaussians.parameters().items():
        expect_finite(f"gaussians.{name}", value)

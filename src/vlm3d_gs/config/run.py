"""Settings of the run itself: length, learning rates, densification, products."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlm3d_gs.config.bounds import check_at_least, check_schedule, check_within
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.config.schedules import Schedule, constant, exponential
from vlm3d_gs.core.errors import ConfigError

DensifyMethod = Literal["gradient", "mcmc"]
if TYPE_CHECKING:
    ExportFormat = str
else:
    # The choices at run time, for `coerce` and help; a checker cannot read them from the table.
    ExportFormat = Literal[tuple(PRODUCTS)]
RUN_FOLDER = Path("runs/{prompt}")
"""Where a run goes by default; `{prompt}` stands for the prompt as a file name."""


def folder_name(prompt: str) -> str:
    """Return the prompt as a file name.

    Example:
        >>> folder_name("A red cube!")
        'a-red-cube'
    """
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60].rstrip("-") or "unnamed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DensifyConfig:
    """When and which Gaussians are added, moved and pruned."""

    enabled: bool = True
    """Off keeps the first cloud's count."""
    method: DensifyMethod = "gradient"
    """`gradient` clones and splits where the screen gradient is large; `mcmc` puts dead Gaussians, and new ones, where
    opaque ones stand, and moves faint ones at random (Kheradmand et al. 2024). Little dies by itself: set
    `regularizer.opacity` too, e.g. to 0.1."""
    start: float = 0.1
    """First round, fraction of the run."""
    stop: float = 0.7
    """No round after this fraction."""
    every: float = 0.1
    """Between rounds, fraction of the run."""
    grow_share: float = 0.15
    """Share of the Gaussians that is added in a round: with `gradient` those of the largest mean screen gradient are
    cloned or split."""
    split_scale: float = 0.05
    """Larger ones are split, smaller ones cloned; largest standard deviation, world units."""
    prune_opacity: float = 0.05
    """Fainter Gaussians are removed, with `mcmc` moved."""
    prune_scale: float = 0.5
    """Larger Gaussians are removed; largest standard deviation, world units."""
    prune_radius: float = 1.2
    """Gaussians further from the origin are removed, world units."""
    noise: Schedule = exponential(8.0, 0.8)
    """With `mcmc`: each step moves Gaussians of opacities around `prune_opacity` and below by so much times their
    covariance times standard normal numbers, 1 / world units. The paper's is 80 to 0.8 for scenes a few units large and
    30,000 steps; 80 would throw our first cloud by four of its widths a step."""

    def __post_init__(self) -> None:
        check_schedule("densify.noise", self.noise, 0.0, 1e6)
        check_within("densify.start", self.start, 0.0, 1.0)
        check_within("densify.stop", self.stop, self.start, 1.0)
        check_within("densify.every", self.every, 1e-3, 1.0)
        check_within("densify.grow_share", self.grow_share, 0.0, 1.0)
        check_within("densify.split_scale", self.split_scale, 0.0, 10.0)
        check_within("densify.prune_opacity", self.prune_opacity, 0.0, 1.0)
        check_within("densify.prune_scale", self.prune_scale, 1e-6, 100.0)
        check_within("densify.prune_radius", self.prune_radius, 0.1, 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """Adam for each raw parameter; learning rates a step, in the parameter's own unit."""

    means_lr: Schedule = exponential(1e-2, 1e-3)
    """Positions, world units."""
    log_scales_lr: Schedule = constant(5e-3)
    """Logarithms of the standard deviations."""
    quats_lr: Schedule = constant(5e-3)
    """Quaternions."""
    opacity_logits_lr: Schedule = constant(5e-2)
    """Logits of the opacities."""
    sh_lr: Schedule = constant(2e-2)
    """Spherical harmonics of degree 0; the higher ones take a twentieth."""
    beta1: float = 0.9
    """Decay of the gradient's mean, in [0, 1)."""
    beta2: float = 0.99
    """Decay of its square, in [0, 1)."""
    eps: float = 1e-15
    """Added to the root of the square, above 0."""
    fused: bool = False
    """On CUDA: move everything, and gather what densification asks for, in one launch of our kernel (`make cuda`);
    the noise and moves of `densify.method=mcmc` by kernels too."""

    def __post_init__(self) -> None:
        for name in ("means_lr", "log_scales_lr", "quats_lr", "opacity_logits_lr", "sh_lr"):
            check_schedule(f"optim.{name}", getattr(self, name), 0.0, 10.0)
        check_within("optim.beta1", self.beta1, 0.0, 0.99999)
        check_within("optim.beta2", self.beta2, 0.0, 0.99999)
        check_within("optim.eps", self.eps, 1e-30, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Length of the run and what it leaves behind on the way."""

    steps: int = 300
    """Optimisation steps, 1 or more."""
    seed: int = 0
    """The one number behind every random draw, 0 or more."""
    preview_every: float = 0.25
    """Between preview sheets, fraction of the run; 0 is none."""
    checkpoint_every: float = 0.25
    """Between checkpoints, fraction of the run; 0 is none."""

    def __post_init__(self) -> None:
        check_at_least("train.steps", self.steps, 1)
        check_within("train.seed", self.seed, 0, 2**63 - 1)
        check_within("train.preview_every", self.preview_every, 0.0, 1.0)
        check_within("train.checkpoint_every", self.checkpoint_every, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What is written at the end."""

    formats: tuple[ExportFormat, ...] = ("ply", "mp4", "sheet")
    """`ply` and other splat formats: scene.SUFFIX; `html` an offline page; `mesh` a closed mesh with texture, mesh.glb;
    `mp4`, `gif`, `webp` turntables; `sheet` a PNG of several views."""
    turntable_s: float = 4.0
    """Length of one turn, seconds."""
    turntable_fps: int = 24
    """Frames a second."""
    turntable_px: int = 256
    """Side of the square frames, pixels; even, as video needs."""
    elevation_deg: float = 15.0
    """Height of the turntable camera."""

    def __post_init__(self) -> None:
        if not self.formats:
            raise ConfigError("export.formats is empty: nothing would be written. Use e.g. 'ply'.")
        for name in self.formats:
            if name not in PRODUCTS:
                raise ConfigError(
                    f"export.formats must be one of {', '.join(PRODUCTS)}, got {name!r}."
                )
        check_within("export.turntable_s", self.turntable_s, 0.1, 600.0)
        check_within("export.turntable_fps", self.turntable_fps, 1, 120)
        check_within("export.turntable_px", self.turntable_px, 16, 4096)
        if self.turntable_px % 2:
            raise ConfigError(
                f"export.turntable_px must be even, got {self.turntable_px}. "
                f"Use {self.turntable_px + 1}."
            )
        check_within("export.elevation_deg", self.elevation_deg, -90.0, 90.0)

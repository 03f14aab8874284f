"""Settings of the run itself: length, learning rates, densification, products."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vlm3d_gs.config.bounds import Range, check, check_ranges
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.config.schedules import Schedule, exponential, linear
from vlm3d_gs.core.errors import ConfigError

DensifyMethod = Literal["gradient", "mcmc"]
LearningRate = Annotated[Schedule, Range(0.0, 10.0)]
if TYPE_CHECKING:
    ExportFormat = str
else:
    # The choices at run time, for `coerce` and help; a checker cannot read them from the table.
    ExportFormat = Literal[tuple(PRODUCTS)]

SHORTEST = 1e-6
"""Shortest interval between previews or checkpoints, fraction of the run: more often than any run has steps."""
RUN_FOLDER = Path("runs/{prompt}")
"""Where a run goes by default; `{prompt}` stands for the prompt as a file name."""


def folder_name(prompt: str) -> str:
    """Return the prompt as a file name; letters without a Latin form are told apart by a hash.

    Example:
        >>> folder_name("A red cube!"), folder_name("un café"), folder_name("красный куб")
        ('a-red-cube', 'un-cafe', 'prompt-60c66125')
    """
    plain = unicodedata.normalize("NFKD", prompt.lower())
    latin = "".join(letter for letter in plain if not unicodedata.combining(letter))
    name = re.sub(r"[^a-z0-9]+", "-", latin).strip("-")[:60].rstrip("-")
    if not any(letter.isalnum() and not letter.isascii() for letter in latin):
        return name or "unnamed"
    digest = hashlib.sha256(unicodedata.normalize("NFC", prompt).encode()).hexdigest()[:8]
    return f"{name[:50].rstrip('-') or 'prompt'}-{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DensifyConfig:
    """When and which Gaussians are added, moved and pruned."""

    enabled: bool = True
    """Whether Gaussians are added and removed; off, the number stays that of the first cloud."""
    method: DensifyMethod = "gradient"
    """`gradient` clones and splits Gaussians with large screen-space gradients; `mcmc` moves dead Gaussians to where
    opaque ones are, adds new ones there, and jitters faint ones (Kheradmand et al. 2024). Few die by themselves: also
    set `regularizer.opacity`, e.g. to 0.1."""
    start: Annotated[float, Range(0.0, 1.0)] = 0.05
    """First round, fraction of the run."""
    stop: Annotated[float, Range(0.0, 1.0)] = 0.6
    """No round after this fraction of the run; not before start."""
    every: Annotated[float, Range(1e-3, 1.0)] = 0.1
    """Interval between rounds, fraction of the run."""
    grow_share: Annotated[float, Range(0.0, 1.0)] = 0.15
    """Fraction of the Gaussians added per round; with `gradient`, those with the largest mean screen-space gradient are
    cloned or split."""
    split_scale: Annotated[float, Range(0.0, 10.0)] = 0.05
    """Larger Gaussians are split, smaller ones cloned; largest standard deviation, world units."""
    prune_opacity: Annotated[float, Range(0.0, 1.0)] = 0.05
    """Fainter Gaussians are removed, with `mcmc` moved."""
    prune_scale: Annotated[float, Range(1e-6, 100.0)] = 0.5
    """Larger Gaussians are removed; largest standard deviation, world units."""
    prune_radius: Annotated[float, Range(0.1, 100.0)] = 1.2
    """Gaussians farther from the origin are removed, world units."""
    prune: Literal["before", "after"] = "before"
    """`gradient`: prune before growing, so that nothing grows that is to go, or after it, as gsplat does: a Gaussian
    that is too large and has a large gradient is then split, not removed."""
    reset_every: Annotated[float, Range(0.0, 1.0)] = 0.0
    """`gradient`: interval at which all opacities are lowered to twice `prune_opacity` at most, fraction of the run; 0
    never does. Off in every short schedule of distillation that we know but LucidDreamer's (0.06)."""
    part_share: Annotated[float, Range(0.0, 1.0)] = 0.02
    """At the end of the run, parts with empty space around them are removed that hold a smaller fraction of the summed
    opacity; 0 keeps all."""
    part_gap: Annotated[float, Range(0.1, 100.0)] = 1.5
    """How far apart such parts are at least, in standard deviations of the median Gaussian along its longest axis; from
    twice as far on, always."""
    noise: Annotated[Schedule, Range(0.0, 1e6)] = exponential(8.0, 0.8)
    """`mcmc`: each step moves Gaussians of opacity around `prune_opacity` and below by this factor times their
    covariance times standard normal noise, 1 / world units. The paper uses 80 to 0.8 for scenes a few units large and
    30,000 steps; 80 would move our first cloud by four of its widths per step."""

    def __post_init__(self) -> None:
        check_ranges(self, "densify")
        check("densify.stop", self.stop, Range(self.start, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """Adam on each raw parameter; learning rates per step, in the parameter's own unit."""

    means_lr: LearningRate = exponential(1e-2, 1e-3)
    """Learning rate of the positions, world units."""
    log_scales_lr: LearningRate = linear(5e-3, 5e-4, 0.5, 1.0)
    """Learning rate of the logarithms of the standard deviations."""
    quats_lr: LearningRate = linear(5e-3, 5e-4, 0.5, 1.0)
    """Learning rate of the quaternions."""
    opacity_logits_lr: LearningRate = linear(5e-2, 5e-3, 0.5, 1.0)
    """Learning rate of the logits of the opacities."""
    sh_lr: LearningRate = linear(2e-2, 2e-3, 0.5, 1.0)
    """Learning rate of the spherical harmonics of degree 0; higher degrees take a twentieth of it."""
    beta1: Annotated[float, Range(0.0, 0.99999)] = 0.9
    """Adam's decay of the mean gradient."""
    beta2: Annotated[float, Range(0.0, 0.99999)] = 0.99
    """Adam's decay of the mean squared gradient."""
    eps: Annotated[float, Range(1e-30, 1.0)] = 1e-15
    """Adam's epsilon, added to the root of the mean square."""
    fused: bool = False
    """On CUDA: one launch of our own kernel (`make cuda`) updates everything and gathers the statistics of
    densification; noise and moves of `densify.method=mcmc` use kernels, too."""

    def __post_init__(self) -> None:
        check_ranges(self, "optim")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Length of the run, its seed, and what it writes on the way."""

    steps: Annotated[int, Range(1, 10_000_000)] = 135
    """Optimisation steps."""
    loop: Literal["reconstruct", "distill"] = "reconstruct"
    """How a run begins: `reconstruct` draws pictures and fits the scene to them (see `reconstruct`), and distils at the
    end; `distill` distils throughout."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """The one number behind every random draw."""
    preview_every: Annotated[float, Range(0.0, 1.0)] = 0.25
    """Interval between preview sheets, fraction of the run; 0 is none."""
    checkpoint_every: Annotated[float, Range(0.0, 1.0)] = 0.25
    """Interval between checkpoints, fraction of the run; 0 is none."""
    checkpoint_every_s: Annotated[float, Range(0.0, 1e6)] = 60.0
    """Longest time between two checkpoints, seconds, so that a crash loses no more; 0 is any. Where either is above 0,
    one is also written after the last step, before the products."""

    def __post_init__(self) -> None:
        check_ranges(self, "train")
        for name in ("preview_every", "checkpoint_every"):
            if 0.0 < getattr(self, name) < SHORTEST:
                raise ConfigError(
                    f"train.{name} must be 0 or in [{SHORTEST:g}, 1], got {getattr(self, name)}."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What is written at the end."""

    formats: tuple[ExportFormat, ...] = ("ply", "mp4", "sheet")
    """Products, separated by commas: splat formats are written as scene.SUFFIX; `html` is an offline page; `mesh` a
    closed mesh with texture, mesh.glb; `mp4`, `gif`, `webp` are turntables; `sheet` is a PNG of several views."""
    turntable_s: Annotated[float, Range(0.1, 600.0)] = 4.0
    """Duration of the turntable, seconds."""
    turntable_fps: Annotated[int, Range(1, 120)] = 24
    """Frames per second."""
    turntable_px: Annotated[int, Range(16, 4096)] = 256
    """Side of the square frames, pixels; even, as video needs."""
    elevation_deg: Annotated[float, Range(-90.0, 90.0)] = 15.0
    """Elevation of the turntable camera, degrees."""

    def __post_init__(self) -> None:
        check_ranges(self, "export")
        if not self.formats:
            raise ConfigError("export.formats is empty: nothing would be written. Use e.g. 'ply'.")
        for name in self.formats:
            if name not in PRODUCTS:
                raise ConfigError(
                    f"export.formats must be one of {', '.join(PRODUCTS)}, got {name[:40]!r}."
                )
        if self.turntable_px % 2:
            raise ConfigError(
                f"export.turntable_px must be even, got {self.turntable_px}. "
                f"Use {self.turntable_px + 1}."
            )

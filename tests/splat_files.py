"""Scenes and tolerances for the tests of splat files, and the comparison of two splats."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.gaussians import Gaussians, concatenate
from vlm3d_gs.core.harmonics import rgb_to_sh0
from vlm3d_gs.core.rotations import quat_to_rotmat
from vlm3d_gs.formats.options import Frame, SplatOptions, SpzVersion
from vlm3d_gs.formats.registry import format_of_suffix
from vlm3d_gs.formats.world import rotate_gaussians, world_to


@dataclass(frozen=True)
class Case:
    """One way to write a file, and how much of a splat survives it: largest absolute errors."""

    suffix: str
    options: SplatOptions
    means: float
    log_scales: float
    turns: float
    """Entries of the rotation matrices."""
    opacities: float
    colors: float
    """Degree-0 colours, 0..1."""
    rest: float
    """Higher coefficients."""
    most_degree: int = 3

    @property
    def frame(self) -> Frame:
        """Axes that the file is in."""
        return self.options.frame or format_of_suffix(f"a{self.suffix}").frame

    @property
    def name(self) -> str:
        return f"{self.suffix[1:]}-{self.options.spz_version}-{self.frame}"


BYTE = 0.5 / 255 + 1e-5
EXACT = (2e-6, 2e-6, 4e-6, 2e-6, 1e-6, 2e-6)


def _spz(version: SpzVersion, frame: Frame | None = None) -> Case:
    options = SplatOptions(spz_version=version, frame=frame)
    # The rest of version 2's rotation is a square root: near w = 0 it is coarse.
    turns = 0.25 if version == 2 else 6e-3
    position, color, rest = 2**-13 + 1e-6, 0.5 / 38.25 * SH_C0 + 1e-4, 8.5 / 128
    return Case(".spz", options, position, 1 / 32 + 1e-5, turns, BYTE, color, rest)


PLAIN = SplatOptions()
CASES = (
    Case(".ply", PLAIN, *EXACT),
    Case(".compressed.ply", PLAIN, 1.1e-3, 2.6e-3, 6e-3, BYTE, 2.1e-3, 0.5 / 32 + 1e-4),
    Case(".splat", PLAIN, 2e-6, 2e-6, 0.03, BYTE, BYTE, 0.0, most_degree=0),
    *(_spz(2), _spz(3), _spz(4), _spz(3, "rdf"), _spz(4, "luf")),
    Case(".sog", PLAIN, 3e-5, 0.03, 0.03, BYTE, 6e-3, 0.01),
    Case(".glb", PLAIN, *EXACT[:3], 1e-5, 1e-6, 2e-6),
    Case(".usda", PLAIN, *EXACT[:3], 1e-5, 1e-6, 2e-6),
    Case(".usdc", PLAIN, *EXACT[:3], 1e-5, 1e-6, 2e-6),
)


def random_splat(count: int, degree: int, seed: int = 0) -> Gaussians:
    """Gaussians within the range of every format: unit cube, colours of 0..1, modest harmonics."""
    draw = torch.Generator().manual_seed(seed)
    rest = (torch.rand(count, (degree + 1) ** 2 - 1, 3, generator=draw) - 0.5) * 0.9
    return Gaussians(
        means=torch.rand(count, 3, generator=draw) * 2 - 1,
        log_scales=torch.rand(count, 3, generator=draw) * 5 - 7,
        quats=torch.randn(count, 4, generator=draw) * 2,
        opacity_logits=torch.rand(count, generator=draw) * 8 - 4,
        sh=torch.cat([rgb_to_sh0(torch.rand(count, 1, 3, generator=draw)), rest], dim=1),
    )


def tripod(per_leg: int = 120) -> Gaussians:
    """Legs of red, green and blue along +x, +y, +z of three lengths, and a ball that is red from +x only.

    Nothing about it is symmetric: any mirror, turn, swapped axis or forgotten harmonic shows.
    """
    parts = []
    for axis, (length, color) in enumerate(
        [(0.9, (0.9, 0.1, 0.1)), (0.6, (0.1, 0.8, 0.1)), (0.75, (0.1, 0.2, 0.9))]
    ):
        along = torch.linspace(0.15, length, per_leg)
        means = torch.zeros(per_leg, 3)
        means[:, axis] = along
        # Slanted, so that no two Gaussians are equally far from a camera: their order would decide.
        means[:, (axis + 1) % 3], means[:, (axis + 2) % 3] = 0.11 * along, -0.07 * along
        log_scales = torch.full((per_leg, 3), -4.2)
        log_scales[:, (axis + 1) % 3] = -3.0  # flat: the legs are ribbons, so rotations show too
        parts.append(_splats(means, log_scales, color))
    center = torch.tensor([[-0.05, 0.02, -0.03]])
    ball = _splats(center, torch.full((1, 3), -1.3), (0.45, 0.4, 0.4))
    # The view direction from a camera on +x is -x; the third coefficient of degree 1 is -C1 x.
    ball.sh[0, 3] = torch.tensor([0.45, -0.3, -0.3]) / 0.4886025
    return concatenate([*parts, ball])


def assert_same_splat(got: Gaussians, expected: Gaussians, case: Case) -> None:
    """Compare two splats column by column in the axes of the file, whatever the order of one."""
    assert len(got) == len(expected)
    order = torch.cdist(expected.means, got.means).argmin(1)
    assert len(order.unique()) == len(order)
    got = rotate_gaussians(got.select(order), world_to(case.frame))
    expected = rotate_gaussians(expected, world_to(case.frame))
    _close("means", got.means, expected.means, case.means)
    _close("log_scales", got.log_scales, expected.log_scales, case.log_scales)
    _close("rotations", quat_to_rotmat(got.quats), quat_to_rotmat(expected.quats), case.turns)
    _close("opacities", got.opacities, expected.opacities, case.opacities)
    kept = (min(case.most_degree, expected.sh_degree) + 1) ** 2
    _close("colours", got.sh[:, 0] * SH_C0, expected.sh[:, 0] * SH_C0, case.colors)
    assert got.sh.shape[1] == kept
    _close("harmonics", got.sh[:, 1:], expected.sh[:, 1:kept], case.rest)


KSPLATS = Path(__file__).parent / "golden" / "ksplat"
"""A scene and three .ksplat files of it, written by GaussianSplats3D 0.4.7."""


def golden_ksplat(folder: Path, level: int) -> Path:
    """Unpack one of them into a folder."""
    path = folder / f"level{level}.ksplat"
    path.write_bytes(gzip.decompress((KSPLATS / f"{path.name}.gz").read_bytes()))
    return path


def flipped(path: Path, seed: int, many: int = 8) -> None:
    """Turn over some bits of a file, in place."""
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    draw = np.random.default_rng(seed)
    places = draw.integers(0, len(data), many)
    data[places] ^= (1 << draw.integers(0, 8, many)).astype(np.uint8)
    path.write_bytes(data.tobytes())


def _splats(
    means: torch.Tensor, log_scales: torch.Tensor, color: tuple[float, float, float]
) -> Gaussians:
    count = len(means)
    sh = torch.zeros(count, 4, 3)
    sh[:, 0] = rgb_to_sh0(torch.tensor(color))
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1)
    return Gaussians(means, log_scales, quats, torch.full((count,), 3.0), sh)


def _close(name: str, got: torch.Tensor, expected: torch.Tensor, most: float) -> None:
    if expected.numel():
        worst = float((got - expected).abs().max())
        assert worst <= most, f"{name}: {worst} is more than {most}"

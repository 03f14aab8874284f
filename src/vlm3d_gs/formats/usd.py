"""Splats as OpenUSD: one `ParticleField3DGaussianSplat` prim, y up, one unit a metre.

x right, y up, z towards the viewer. Everything is activated, as in glTF; quaternions have the real
part first; harmonics are stored Gaussian by Gaussian, degree 0 included. usd-core is an extra, so
it is imported inside functions, and the error names the command that installs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vlm3d_gs.core.errors import ExportError, InputFileError, MissingDependencyError
from vlm3d_gs.core.harmonics import MAX_DEGREE
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.claims import expect_file
from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.quantize import log_of, logit, sigmoid

PRIM = "ParticleField3DGaussianSplat"
EXTENT_SIGMAS = 3.0
"""Standard deviations of its largest axis by which a Gaussian extends the written bounds."""


def save_usd(arrays: SplatArrays, path: Path) -> None:
    """Write arrays that are in `rub` axes; the suffix chooses text (.usda) or binary.

    Raises:
        MissingDependencyError: usd-core is not installed, or older than 26.3.
        ExportError: the library could not write.
    """
    usd, geometry, volume, value, _ = _library()
    if path.suffix == ".usdz":
        raise ExportError("A .usdz cannot be written here; write .usdc, and pack it with usdzip.")

    # Programs frame and cull by the extent, so it must contain what is visible of every Gaussian.
    scales = np.exp(arrays.log_scales)
    reach = EXTENT_SIGMAS * scales.max(1, keepdims=True)
    extent = np.stack([(arrays.means - reach).min(0), (arrays.means + reach).max(0)])

    stage = usd.Stage.CreateNew(str(path))
    geometry.SetStageUpAxis(stage, geometry.Tokens.y)
    geometry.SetStageMetersPerUnit(stage, 1.0)
    prim = volume.ParticleField3DGaussianSplat.Define(stage, "/Splat")
    stage.SetDefaultPrim(prim.GetPrim())

    prim.CreatePositionsAttr(value.Vec3fArray.FromNumpy(np.ascontiguousarray(arrays.means)))
    prim.CreateOrientationsAttr(_quaternions(value, arrays))
    prim.CreateScalesAttr(value.Vec3fArray.FromNumpy(scales))
    prim.CreateOpacitiesAttr(value.FloatArray.FromNumpy(sigmoid(arrays.opacity_logits)))

    degree = int(np.sqrt(arrays.sh.shape[1])) - 1
    prim.CreateRadianceSphericalHarmonicsDegreeAttr(degree)
    harmonics = np.ascontiguousarray(arrays.sh.reshape(-1, 3))
    prim.CreateRadianceSphericalHarmonicsCoefficientsAttr(value.Vec3fArray.FromNumpy(harmonics))

    prim.CreateProjectionModeHintAttr("perspective")
    prim.CreateSortingModeHintAttr("cameraDistance")
    prim.CreateExtentAttr(value.Vec3fArray.FromNumpy(extent.astype(np.float32)))

    if not stage.GetRootLayer().Save():
        raise ExportError(f"OpenUSD could not write {path}.")


def load_usd(source: Path) -> SplatArrays:
    """Read the splat of a USD file as arrays in `rub` axes.

    Raises:
        InputFileError: not a USD file, damaged, not exactly one splat prim, a stage that is not
            y up, or a prim with a transform.
        MissingDependencyError: as `save_usd`.
    """
    expect_file(source)
    usd, geometry, volume, _, errors = _library()

    try:
        stage = usd.Stage.Open(str(source))
        prims = [prim for prim in stage.Traverse() if prim.GetTypeName() == PRIM]
        if len(prims) != 1:
            raise InputFileError(f"{source} holds {len(prims)} prims of type {PRIM}; one is read.")

        splat = volume.ParticleField3DGaussianSplat(prims[0])
        if geometry.GetStageUpAxis(stage) != geometry.Tokens.y:
            raise InputFileError(f"{source} is not y up; rotate it in the program that made it.")

        transform = np.array(splat.ComputeLocalToWorldTransform(usd.TimeCode.Default()))
        if not np.allclose(transform, np.eye(4)):
            raise InputFileError(f"{source} moves its splat by a transform; apply it first.")
        return _arrays(source, splat)
    except (errors.ErrorException, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise InputFileError(f"{source} is not a readable USD file: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the last line of the library's report, which may quote bytes that are not text."""
    try:
        lines = str(error).strip().splitlines()
    except UnicodeDecodeError:
        return "its text is damaged"
    return lines[-1][:200] if lines else "no reason given"


def _arrays(source: Path, splat: Any) -> SplatArrays:
    """Return the arrays of a splat prim, full or half precision; raise if their lengths disagree."""
    means = _values(splat.GetPositionsAttr(), splat.GetPositionshAttr(), 3)
    count = len(means)
    quats = _values(splat.GetOrientationsAttr(), splat.GetOrientationshAttr(), 4)
    scales = _values(splat.GetScalesAttr(), splat.GetScaleshAttr(), 3)
    opacities = _values(splat.GetOpacitiesAttr(), splat.GetOpacitieshAttr(), 1)
    sh = _values(
        splat.GetRadianceSphericalHarmonicsCoefficientsAttr(),
        splat.GetRadianceSphericalHarmonicsCoefficientshAttr(),
        3,
    )
    degree = splat.GetRadianceSphericalHarmonicsDegreeAttr().Get()

    lengths = {len(quats), len(scales), len(opacities), len(sh) // max(1, (degree + 1) ** 2)}
    if lengths != {count} or len(sh) % max(1, count) or degree < 0:
        raise InputFileError(
            f"{source} is damaged: {count} positions, {len(quats)} orientations, {len(scales)} scales, "
            f"{len(opacities)} opacities, {len(sh)} coefficients of degree {degree}."
        )

    kept = (min(degree, MAX_DEGREE) + 1) ** 2
    return SplatArrays(
        means=means,
        log_scales=log_of(scales),
        quats=quats[:, [3, 0, 1, 2]],  # as an array the imaginary part comes first
        opacity_logits=logit(opacities[:, 0]),
        sh=np.ascontiguousarray(sh.reshape(count, -1, 3)[:, :kept]),
        frame="rub",
    )


def _values(attribute: Any, half: Any, width: int) -> Any:
    """Return an attribute as float32 [count, width], or its half-precision variant if only that is set."""
    values = attribute.Get() if attribute.HasAuthoredValue() else half.Get()
    return np.array([] if values is None else values, np.float32).reshape(-1, width)


def _quaternions(value: Any, arrays: SplatArrays) -> Any:
    return value.QuatfArray.FromNumpy(np.ascontiguousarray(arrays.quats[:, [1, 2, 3, 0]]))


def _library() -> tuple[Any, Any, Any, Any, Any]:
    """Return usd-core's modules Usd, UsdGeom, UsdVol, Vt and Tf."""
    try:
        from pxr import Tf, Usd, UsdGeom, UsdVol, Vt
    except ImportError as error:
        raise MissingDependencyError(
            "USD files need usd-core, which is not installed. Run: pip install 'vlm3d-gs[usd]'"
        ) from error
    if not hasattr(UsdVol, PRIM):
        raise MissingDependencyError(
            "This usd-core knows no Gaussian splats. Run: pip install 'usd-core>=26.3'"
        )
    return Usd, UsdGeom, UsdVol, Vt, Tf


def _is_usd(source: Path) -> bool:
    """Return whether a file is USD; among zips, as SOG files are too, only one called .usdz."""
    with source.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    return not zipped or source.suffix.lower() == ".usdz"


CODEC = Codec(
    load=lambda source, _: load_usd(source),
    save=lambda arrays, path, _: save_usd(arrays, path),
    accepts=_is_usd,
)

"""Splats as OpenUSD: one `ParticleField3DGaussianSplat` prim, y up, one unit a metre.

x right, y up, z towards the viewer. Everything is activated, as in glTF; quaternions have the real
part first; harmonics are stored Gaussian by Gaussian, degree 0 included. usd-core is an extra, so
it is imported inside functions, and the error names the command that installs it. Files are read in
a process of their own (`usd_child`), since damaged ones may crash the library.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.errors import ExportError, InputFileError, MissingDependencyError
from vlm3d_gs.core.harmonics import MAX_DEGREE
from vlm3d_gs.formats import usd_child
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.claims import FREE_BYTES, expect_file, expect_plausible
from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.quantize import log_of, logit, sigmoid

PRIM = usd_child.PRIM
TOO_OLD = "This usd-core knows no Gaussian splats. Run: pip install 'usd-core>=26.3'"
EXTENT_SIGMAS = 3.0
"""Standard deviations of its largest axis by which a Gaussian extends the written bounds."""
CHILD_COPIES = 16
"""The reading process may take this many times what any file may unpack to, 1 GiB, ..."""
MAX_TEXT_EXPANSION = 100
"""... and this many bytes for each byte of the file: the library keeps numbers of a text as objects."""
CHILD_SECONDS, BYTES_A_SECOND = 20, 2**20
"""Seconds of the processor that it may take for any file, and bytes of the file for each more."""


def save_usd(arrays: SplatArrays, path: Path) -> None:
    """Write arrays that are in `rub` axes; the suffix chooses text (.usda) or binary.

    Raises:
        MissingDependencyError: usd-core is not installed, or older than 26.3.
        ExportError: the library could not write.
    """
    usd, geometry, volume, value = _library()
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
            y up, or a prim with a transform; or a file that OpenUSD cannot read within its limits.
        MissingDependencyError: as `save_usd`.
    """
    expect_file(source)
    _expect_library()
    data = _read_apart(source)

    count = len([name for name in data if name.endswith(".positions")])
    if count != 1:
        raise InputFileError(f"{source} holds {count} prims of type {PRIM}; one is read.")
    if str(data["up"]) != "Y":
        raise InputFileError(f"{source} is not y up; rotate it in the program that made it.")
    if not np.allclose(data["0.transform"], np.eye(4)):
        raise InputFileError(f"{source} moves its splat by a transform; apply it first.")
    return _arrays(source, data)


def _read_apart(source: Path) -> dict[str, NDArray[Any]]:
    """Return what `usd_child` finds in a file, read in a process of its own.

    Raises:
        InputFileError: it cannot read the file, crashes on it, or needs more than it may.
    """
    size = source.stat().st_size
    memory = FREE_BYTES * CHILD_COPIES + MAX_TEXT_EXPANSION * size
    seconds = CHILD_SECONDS + size // BYTES_A_SECOND

    with TemporaryDirectory(prefix="vlm3d-gs-") as folder:
        result = Path(folder) / "result.npz"
        # -P: a file called numpy.py in the current folder must not be imported.
        command = [sys.executable, "-P", usd_child.__file__, source.absolute(), result]
        try:
            done = subprocess.run(
                [*map(str, command), str(memory), str(seconds)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=10 * seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InputFileError(
                f"{source} is not a readable USD file: OpenUSD did not end in {10 * seconds} s."
            ) from error
        except OSError as error:
            raise InputFileError(f"{source} cannot be read: {error}") from error

        if done.returncode == usd_child.TOO_OLD:
            raise MissingDependencyError(TOO_OLD)
        if done.returncode:
            raise InputFileError(f"{source} is not a readable USD file: {_reason(done)}.")
        _expect_result(source, result, size)
        with np.load(result, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def _expect_result(source: Path, result: Path, size: int) -> None:
    """Require that what was found is no larger than a file of this size can hold."""
    if not result.is_file():
        raise InputFileError(f"{source} is not a readable USD file: OpenUSD read nothing.")
    found = result.stat().st_size
    expect_plausible(source, f"{found} bytes of values", found, size)


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return in one line why the other process failed."""
    if done.returncode == usd_child.REFUSED:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].rstrip(".") if lines else "no reason given"
    ended = f"exit code {done.returncode}"
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
    if ended in ("SIGXCPU", "SIGKILL"):
        return "OpenUSD needs more time or memory for it than a sound file of its size"
    return f"OpenUSD crashed on it ({ended}), as damaged files make it do; export it again"


def _arrays(source: Path, data: dict[str, NDArray[Any]]) -> SplatArrays:
    """Return the arrays of the first splat prim; raise if their lengths disagree."""
    means, quats, scales, opacities, sh = (data[f"0.{name}"] for name, *_ in usd_child.COLUMNS)
    count, degree = len(means), int(data["0.degree"])

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
        sh=np.ascontiguousarray(sh.reshape(count, (degree + 1) ** 2, 3)[:, :kept]),
        frame="rub",
    )


def _quaternions(value: Any, arrays: SplatArrays) -> Any:
    return value.QuatfArray.FromNumpy(np.ascontiguousarray(arrays.quats[:, [1, 2, 3, 0]]))


def _library() -> tuple[Any, Any, Any, Any]:
    """Return usd-core's modules Usd, UsdGeom, UsdVol and Vt."""
    _expect_library()
    from pxr import Usd, UsdGeom, UsdVol, Vt

    if not hasattr(UsdVol, PRIM):
        raise MissingDependencyError(TOO_OLD)
    return Usd, UsdGeom, UsdVol, Vt


def _expect_library() -> None:
    """Require that usd-core is installed, without loading it."""
    if find_spec("pxr") is None:
        raise MissingDependencyError(
            "USD files need usd-core, which is not installed. Run: pip install 'vlm3d-gs[usd]'"
        )


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

"""Splats as OpenUSD: `ParticleField3DGaussianSplat` prims; one is written, y up, one unit a metre.

x right, y up, z towards the viewer. All visible prims are read, each with its transform, and stages
with z up are turned upright. Everything is activated, as in glTF; quaternions have the real
part first; harmonics are stored Gaussian by Gaussian, degree 0 included. usd-core is an extra, so
it is imported inside functions, and the error names the command that installs it. Files are read in
a process of their own (`usd_child`), since damaged ones may crash the library.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.bands import MAX_DEGREE
from vlm3d_gs.core.errors import ExportError, InputFileError, MissingDependencyError
from vlm3d_gs.core.files import CURES
from vlm3d_gs.formats import usd_child
from vlm3d_gs.formats.arrays import SplatArrays, joined
from vlm3d_gs.formats.claims import FREE_BYTES, Budget, expect_file, expect_plausible
from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.quantize import log_of, logit, sigmoid
from vlm3d_gs.formats.transforms import transformed

PRIM = usd_child.PRIM
TOO_OLD = "This usd-core knows no Gaussian splats. Run: pip install 'usd-core>=26.3'"
EXTENT_SIGMAS = 3.0
"""Standard deviations of its largest axis by which a Gaussian extends the written bounds."""
Z_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], np.float64)
"""From a stage with z up, seen from its front (-y), to one with y up, seen from its front (z)."""
CHILD_COPIES = 16
"""The reading process may take this many times what any file may unpack to, 1 GiB, ..."""
MAX_TEXT_EXPANSION = 100
"""... and this many bytes for each byte of the file: the library keeps numbers of a text as objects."""
CHILD_SECONDS, BYTES_A_SECOND = 20, 2**20
"""Seconds of the processor that it may take for any file, and bytes of the file for each more."""


def save_usd(arrays: SplatArrays, path: Path) -> None:
    """Write arrays that are in `rub` axes; the suffix chooses text (.usda), binary, or a package (.usdz).

    Raises:
        MissingDependencyError: usd-core is not installed, or older than 26.3.
        ExportError: the library could not write.
    """
    save_usd_prims([("Splat", arrays)], path)


def save_usd_prims(parts: Sequence[tuple[str, SplatArrays]], path: Path) -> None:
    """Write several splats that are in `rub` axes, a prim for each; several stand under the prim `Scene`.

    Args:
        parts: names of the prims, and what each shows; the notes of the file are those of the first.
        path: as in `save_usd`, also for the errors.
    """
    usd, geometry, volume, value = _library()
    if path.suffix.lower() == ".usdz":
        _save_package(parts, path)
        return

    with _refusals(path):
        stage = usd.Stage.CreateNew(str(path))
    geometry.SetStageUpAxis(stage, geometry.Tokens.y)
    geometry.SetStageMetersPerUnit(stage, 1.0)
    above = ""
    if len(parts) > 1:
        stage.SetDefaultPrim(geometry.Xform.Define(stage, "/Scene").GetPrim())
        above = "/Scene"
    for name, arrays in parts:
        place = f"{above}/{_prim_name(name)}"
        prim = volume.ParticleField3DGaussianSplat.Define(stage, place)
        if not above:
            stage.SetDefaultPrim(prim.GetPrim())
        _fill(prim, arrays, value)

    first = parts[0][1]
    notes: dict[str, Any] = {"antialiased": True} if first.antialiased else {}
    if first.comments:
        notes["comments"] = value.StringArray(list(first.comments))
    if notes:
        stage.GetRootLayer().customLayerData = notes

    with _refusals(path):
        saved = stage.GetRootLayer().Save()
    if not saved:
        raise ExportError(f"OpenUSD could not write {path}.")


def _prim_name(name: str) -> str:
    """Return a name as USD allows it: letters, digits and _, no digit first."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return f"_{plain}" if plain[:1].isdigit() else plain


def _fill(prim: Any, arrays: SplatArrays, value: Any) -> None:
    """Set the attributes of a splat prim."""
    # Programs frame and cull by the extent, so it must contain what is visible of every Gaussian.
    scales = np.exp(arrays.log_scales)
    reach = EXTENT_SIGMAS * scales.max(1, keepdims=True)
    extent = np.stack([(arrays.means - reach).min(0), (arrays.means + reach).max(0)])

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


def _save_package(parts: Sequence[tuple[str, SplatArrays]], path: Path) -> None:
    """Write a binary file and pack it alone."""
    from pxr import UsdUtils

    with TemporaryDirectory(prefix="vlm3d-gs-") as folder:
        inner = Path(folder) / "scene.usdc"
        save_usd_prims(parts, inner)
        with _refusals(path):
            packed = UsdUtils.CreateNewUsdzPackage(str(inner), str(path))
        if not packed:
            raise ExportError(f"OpenUSD could not write {path}.")


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn the library's exception, pages with lines of its own source, into what the file system said.

    Raises:
        OSError: the message has the words of one; whoever makes the file knows the cure.
        ExportError: it has not.
    """
    try:
        yield
    except RuntimeError as error:  # the base of pxr.Tf.ErrorException
        text = str(error)
        for code in CURES:
            if os.strerror(code) in text:
                raise OSError(code, os.strerror(code)) from error
        reasons = re.findall(r"'([^']*)'", text) or [type(error).__name__]
        raise ExportError(f"OpenUSD could not write {path}: {reasons[-1]}") from error


def load_usd(source: Path) -> SplatArrays:
    """Read the splats of a USD file as arrays in `rub` axes.

    Raises:
        InputFileError: not a USD file, damaged, without a visible splat prim, or one that OpenUSD
            cannot read within its limits.
        MissingDependencyError: as `save_usd`.
    """
    expect_file(source)
    _expect_library()
    data = _read_apart(source)

    count = len([name for name in data if name.endswith(".positions")])
    if count == 0:
        raise InputFileError(f"{source} holds no visible prim of type {PRIM}.")

    upright = Z_UP if str(data["up"]) == "Z" else np.eye(4)
    budget = Budget(source, source.stat().st_size)
    splats = []
    for index in range(count):
        arrays = _arrays(source, data, index)
        budget.spend(f"{len(arrays)} Gaussians", sum(v.nbytes for v in arrays.columns().values()))
        # The library's matrices act on rows.
        matrix = upright @ data[f"{index}.transform"].T
        if not np.isfinite(matrix).all():
            raise InputFileError(f"{source} has a transform that is not finite.")
        splats.append(transformed(arrays, matrix, source))
    return replace(
        joined(splats),
        comments=tuple(str(text) for text in data["comments"]),
        antialiased=bool(data["antialiased"]),
    )


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


def _arrays(source: Path, data: dict[str, NDArray[Any]], index: int) -> SplatArrays:
    """Return the arrays of a splat prim; raise if their lengths disagree."""
    means, quats, scales, opacities, sh = (
        data[f"{index}.{name}"] for name, *_ in usd_child.COLUMNS
    )
    count, degree = len(means), int(data[f"{index}.degree"])

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
        remarks=(f"harmonics of degree {degree} cut to 3",) if degree > MAX_DEGREE else (),
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


CODEC = Codec.whole(
    lambda source, _: load_usd(source),
    lambda arrays, path, _: save_usd(arrays, path),
    accepts=_is_usd,
    save_parts=save_usd_prims,
)

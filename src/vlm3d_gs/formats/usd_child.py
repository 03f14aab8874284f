"""The program that reads a USD file in a process of its own: `python usd_child.py FILE RESULT.npz MEMORY SECONDS`.

OpenUSD's own code may crash on a damaged file, take all memory or never end, and no `except` helps
then. So `usd` starts this file as a program, with limits, and reads what it leaves behind. It
imports nothing of the package, so that it starts quickly, and says what is wrong in one line on
standard error, with exit code 2.

The result holds the stage's `up` axis, `comments` and `antialiased`, and for visible splat prim number i `i.positions`,
`i.orientations` (imaginary part first, as arrays have it), `i.scales`, `i.opacities`, `i.harmonics`, `i.degree` and
`i.transform` (acting on rows).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

try:
    import resource
except ImportError:  # not on Windows: only the process itself protects the caller there
    resource = None  # type: ignore[assignment]

PRIM = "ParticleField3DGaussianSplat"
REFUSED, TOO_OLD = 2, 3
"""Exit codes for a file that cannot be read (standard error says why), and for a library without splats."""
COLUMNS = (
    ("positions", "PositionsAttr", "PositionshAttr", 3),
    ("orientations", "OrientationsAttr", "OrientationshAttr", 4),
    ("scales", "ScalesAttr", "ScaleshAttr", 3),
    ("opacities", "OpacitiesAttr", "OpacitieshAttr", 1),
    (
        "harmonics",
        "RadianceSphericalHarmonicsCoefficientsAttr",
        "RadianceSphericalHarmonicsCoefficientshAttr",
        3,
    ),
)
"""Name, attribute in full precision, the same in half precision, numbers in a row."""
BROKEN = (
    *(RuntimeError, ValueError, TypeError, AttributeError, OverflowError),
    *(ArithmeticError, LookupError, OSError, MemoryError),
)
"""What damaged files make the library raise; its own exception is a RuntimeError."""


def limit(memory_bytes: int, seconds: int) -> None:
    """Bound what this process may take from here on.

    Args:
        memory_bytes: beside what the libraries hold already.
        seconds: of the processor.
    """
    from pxr import Work

    # Worker threads would take memory by their number.
    Work.SetConcurrencyLimit(1)
    if resource is None:
        return

    status = Path("/proc/self/status")
    if status.exists():
        held = int(status.read_text().partition("VmData:")[2].split()[0]) * 1024
        lower(resource.RLIMIT_DATA, held + memory_bytes)
    lower(resource.RLIMIT_CPU, seconds)
    lower(resource.RLIMIT_CORE, 0)


def lower(kind: int, most: int) -> None:
    """Set a limit, unless a stricter one is in force."""
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(kind, (most, most))


def read_stage(source: Path) -> dict[str, Any]:
    """Return what the result holds; damage may raise any exception, or end the process."""
    from pxr import Usd, UsdGeom, UsdVol

    if not hasattr(UsdVol, PRIM):
        sys.exit(TOO_OLD)
    stage = Usd.Stage.Open(str(source))
    said = stage.GetRootLayer().customLayerData
    result: dict[str, Any] = {
        "up": str(UsdGeom.GetStageUpAxis(stage)),
        "comments": np.array([str(text) for text in said.get("comments", [])], np.str_),
        "antialiased": said.get("antialiased") is True,
    }
    prims = [
        prim
        for prim in stage.Traverse(Usd.TraverseInstanceProxies())
        if prim.GetTypeName() == PRIM
        and UsdGeom.Imageable(prim).ComputeVisibility() != UsdGeom.Tokens.invisible
    ]

    start = Usd.TimeCode.EarliestTime()  # of what moves, the first picture
    for index, prim in enumerate(prims):
        splat = UsdVol.ParticleField3DGaussianSplat(prim)
        for name, full, half, width in COLUMNS:
            result[f"{index}.{name}"] = values(splat, full, half, width, start)

        degree = splat.GetRadianceSphericalHarmonicsDegreeAttr().Get(start)
        result[f"{index}.degree"] = int(degree)
        transform = splat.ComputeLocalToWorldTransform(start)
        result[f"{index}.transform"] = np.array(transform, np.float64)
    return result


def values(splat: Any, full: str, half: str, width: int, start: Any) -> Any:
    """Return an attribute as float32 [count, width], or its half-precision variant if only that is set."""
    attribute = getattr(splat, f"Get{full}")()
    found = (
        attribute.Get(start)
        if attribute.HasAuthoredValue()
        else getattr(splat, f"Get{half}")().Get(start)
    )
    return np.array([] if found is None else found, np.float32).reshape(-1, width)


def reason(error: Exception) -> str:
    """Return the last line of a report, which may quote bytes that are not text."""
    try:
        lines = str(error).strip().splitlines()
    except UnicodeDecodeError:
        return "its text is damaged"
    return lines[-1][:200] if lines else type(error).__name__


def main(source: Path, result: Path, memory_bytes: int, seconds: int) -> int:
    """Read the file and write the result; return the exit code."""
    limit(memory_bytes, seconds)
    try:
        np.savez(result, **read_stage(source))
    except BROKEN as error:
        # Standard error may hold reports of the library; the line is the last.
        sys.stderr.write(f"\n{reason(error)}\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))

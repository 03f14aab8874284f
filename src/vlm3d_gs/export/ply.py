"""The canonical product: a splat PLY in the layout that common viewers load.

Binary little endian, one `vertex` element of float32 properties in this order: x y z, nx ny nz
(zeros), f_dc_0..2, f_rest_* (channel-major: all red coefficients, then green, then blue), opacity
(logit), scale_0..2 (natural log), rot_0..3 (unit quaternion, wxyz). PLY names no frame; what
viewers assume is x right, y down, z away, so scenes are turned into that on writing and back on
reading.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement, PlyParseError

from vlm3d_gs.errors import ExportError, InputFileError
from vlm3d_gs.export.frames import WORLD_TO_RDF, rotate_gaussians
from vlm3d_gs.files import atomic_path
from vlm3d_gs.scene import Gaussians

Frame = Literal["viewer", "world"]
"""`viewer`: x right, y down, z away. `world`: our own axes, for tools that expect z up."""

REST_COUNTS = (0, 9, 24, 45)
"""Allowed numbers of f_rest properties: degree 0 to 3."""
LEADING = ("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2")
TRAILING = ("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")
REQUIRED = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", *TRAILING)
COMMENTS = {
    "viewer": "axes: x right, y down, z away from the front camera",
    "world": "axes: x towards the front camera, y its right, z up",
}
TYPE_BYTES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
"""Bytes of PLY's scalar types, old and new names."""
MAX_HEADER_BYTES = 65_536


def write_ply(
    gaussians: Gaussians, path: str | Path, *, frame: Frame = "viewer", pad_sh3: bool = False
) -> None:
    """Write a splat PLY, whole or not at all; same Gaussians, same bytes.

    Args:
        gaussians: N >= 1 finite Gaussians.
        path: the file; replaced if it exists.
        frame: axes of the file; `viewer` is what viewers expect.
        pad_sh3: write all 45 f_rest properties, zeros where the scene has fewer: some engine
            plug-ins read nothing else.

    Raises:
        ExportError: no Gaussians, a NaN or an infinity, or the folder does not exist.
    """
    table = _table(gaussians, frame, pad_sh3)
    element = PlyElement.describe(table, "vertex")
    comments = [COMMENTS[frame]]
    with atomic_path(path) as temporary:
        PlyData([element], text=False, byte_order="<", comments=comments).write(str(temporary))


def read_ply(path: str | Path, *, frame: Frame = "viewer") -> Gaussians:
    """Read a splat PLY, ours or another program's.

    The inverse of `write_ply` up to float32 rounding; quaternions come back normalised.

    Args:
        path: the file.
        frame: axes of the file; PLY itself does not say them.

    Returns:
        Float32 Gaussians on the CPU, in our world frame.

    Raises:
        InputFileError: no such file, not a PLY, truncated, not a Gaussian splat, or not finite. The
            header's claims are checked against the file's size before anything is allocated.
    """
    source = Path(path)
    if not source.is_file():
        raise InputFileError(f"There is no file {source}.")
    _check_header(source)
    try:
        vertex = PlyData.read(str(source))["vertex"]
        names = [item.name for item in vertex.properties]
        gaussians = _from_columns(vertex.data, names)
    except (PlyParseError, ValueError, OverflowError, EOFError) as error:
        raise InputFileError(f"{source} is not a readable PLY file: {error}") from error
    if not all(bool(tensor.isfinite().all()) for tensor in gaussians.parameters().values()):
        raise InputFileError(f"{source} holds NaN or infinite values; export it again.")
    if frame == "world":
        return gaussians
    return rotate_gaussians(gaussians, torch.tensor(WORLD_TO_RDF).T)


def _table(gaussians: Gaussians, frame: Frame, pad_sh3: bool) -> NDArray[np.void]:
    """Return one row of named float32 values per Gaussian."""
    if len(gaussians) == 0:
        raise ExportError("There are no Gaussians to write: the scene is empty.")
    for name, tensor in gaussians.parameters().items():
        bad = int((~tensor.isfinite()).sum())
        if bad:
            raise ExportError(f"Cannot write the scene: {bad} values of {name} are not finite.")
    turned = gaussians.detach().to("cpu", torch.float64)
    if frame == "viewer":
        turned = rotate_gaussians(turned, torch.tensor(WORLD_TO_RDF))
    count = len(turned)
    quats = torch.nn.functional.normalize(turned.quats, dim=-1)
    quats[quats.norm(dim=-1) == 0] = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=quats.dtype)
    rest = turned.sh[:, 1:, :].transpose(1, 2)  # [N, 3, K-1]: channel-major
    if pad_sh3:
        rest = torch.nn.functional.pad(rest, (0, 15 - rest.shape[2]))
    columns = [turned.means, torch.zeros_like(turned.means), turned.sh[:, 0, :]]
    columns += [rest.reshape(count, -1), turned.opacity_logits[:, None], turned.log_scales, quats]
    values = torch.cat(columns, dim=1).to(torch.float32).numpy()
    rest_names = tuple(f"f_rest_{index}" for index in range(rest.shape[1] * rest.shape[2]))
    dtype = np.dtype([(name, "<f4") for name in (*LEADING, *rest_names, *TRAILING)])
    table: NDArray[np.void] = np.ascontiguousarray(values, "<f4").view(dtype).reshape(count)
    return table


def _from_columns(data: NDArray[np.void], names: list[str]) -> Gaussians:
    """Return Gaussians from a vertex table, in the file's own frame."""

    def columns(*wanted: str) -> torch.Tensor:
        stacked = np.stack([np.asarray(data[name], np.float32) for name in wanted], axis=1)
        return torch.from_numpy(stacked)

    rest_count = sum(name.startswith("f_rest_") for name in names)
    per_channel = rest_count // 3
    sh = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None, :]
    if rest_count:
        rest = columns(*(f"f_rest_{index}" for index in range(rest_count)))
        rest = rest.reshape(len(rest), 3, per_channel).transpose(1, 2)
        sh = torch.cat([sh, rest], dim=1)
    quats = columns("rot_0", "rot_1", "rot_2", "rot_3")
    return Gaussians(
        means=columns("x", "y", "z"),
        log_scales=columns("scale_0", "scale_1", "scale_2"),
        quats=torch.nn.functional.normalize(quats, dim=-1),
        opacity_logits=columns("opacity")[:, 0],
        sh=sh.contiguous(),
    )


def _check_header(source: Path) -> None:
    """Refuse a file whose header is not that of a splat, or promises more than the file holds."""
    with source.open("rb") as stream:
        start = stream.read(MAX_HEADER_BYTES)
    head, ended, _ = start.partition(b"end_header")
    if not start.startswith(b"ply") or not ended:
        raise InputFileError(f"{source} is not a PLY file: it has no PLY header.")
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    lines = [words for words in lines if words and words[0] not in ("comment", "obj_info", "ply")]
    elements = [words for words in lines if words[0] == "element"]
    if len(elements) != 1 or elements[0][1:2] != ["vertex"] or len(elements[0]) != 3:
        found = ", ".join(" ".join(words[1:]) for words in elements) or "none"
        raise InputFileError(
            f"{source} is not a plain Gaussian splat: it should have the one element 'vertex', it "
            f"has: {found}. Meshes and compressed PLY are not read; convert to a plain splat PLY."
        )
    properties = [words[1:] for words in lines if words[0] == "property"]
    unreadable = [words for words in properties if len(words) != 2 or words[0] not in TYPE_BYTES]
    if unreadable or not elements[0][2].isdigit():
        raise InputFileError(f"{source} has a header that this program cannot read.")
    names = [words[1] for words in properties]
    _check_names(source, names)
    binary = ["format", "ascii", "1.0"] not in lines
    row_bytes = sum(TYPE_BYTES[words[0]] if binary else 2 for words in properties)
    needed = int(elements[0][2]) * row_bytes
    present = source.stat().st_size - len(head)
    if needed > present:
        raise InputFileError(
            f"{source} is truncated: its header promises {elements[0][2]} Gaussians ({needed} "
            f"bytes), the file holds {present} bytes after the header. Copy or export it again."
        )


def _check_names(source: Path, names: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise InputFileError(
            f"{source} is not a Gaussian splat: it lacks {', '.join(missing)}. A point cloud or a "
            "mesh cannot be rendered as Gaussians."
        )
    rest = sorted(int(name[7:]) for name in names if name[:7] == "f_rest_" and name[7:].isdigit())
    if len(rest) not in REST_COUNTS or rest != list(range(len(rest))):
        allowed = ", ".join(str(count) for count in REST_COUNTS)
        raise InputFileError(
            f"{source} has {len(rest)} f_rest properties; a splat has {allowed} "
            f"(degree 0 to {math.isqrt(REST_COUNTS[-1] // 3 + 1) - 1})."
        )

"""Reading splats from glTF: floats, the quantised types that the extension allows, or SPZ.

All primitives with `KHR_gaussian_splatting` in the default scene are read, each with the transform
of its nodes. `document` checks what the file claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlm3d_gs.core.bands import MAX_DEGREE, SH_C0
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays, joined
from vlm3d_gs.formats.claims import gaussian_bytes
from vlm3d_gs.formats.frames import rotation_to
from vlm3d_gs.formats.gltf.document import Document, parse
from vlm3d_gs.formats.gltf.nodes import MAX_DEPTH, node_matrix
from vlm3d_gs.formats.gltf.writer import EXTENSION, sh_name
from vlm3d_gs.formats.quantize import log_of, logit
from vlm3d_gs.formats.spz.stream import parse_spz
from vlm3d_gs.formats.transforms import transformed

DISPLAY, LINEAR = "srgb_rec709_display", "lin_rec709_display"
SPZ = ("KHR_gaussian_splatting_compression_spz_2", "KHR_gaussian_splatting_compression_spz")
"""The draft's name for SPZ inside glTF, and the one before."""
KNOWN = (EXTENSION, *SPZ, "KHR_mesh_quantization", "KHR_materials_unlit")
"""Extensions that a file may require."""
OBEYED = {"kernel": "ellipse", "projection": "perspective", "sortingMethod": "cameraDistance"}
"""Properties of the extension, and the only value of each that pictures here follow."""
LEAST_PART = 4096
"""Bytes that a splat of few Gaussians counts as, since each takes time, too."""
CLEARLY = 0.5
"""Share of the misfit of one orientation that that of the other must stay below to be believed."""


def load_glb(source: Path) -> SplatArrays:
    """Read the splats of a .glb or .gltf as arrays in `rub` axes. Negative scales become NaN.

    Raises:
        InputFileError: not glTF, no splat in it, truncated, damaged, or in need of an extension
            that is not known.
    """
    document = parse(source)
    try:
        required = document.json.get("extensionsRequired", [])
        unknown = sorted({str(name) for name in required} - {*KNOWN})
        if unknown:
            raise InputFileError(
                document.broken(
                    f"it requires {', '.join(unknown)}, which this program does not know"
                )
            )
        splats = list(_primitives(document))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputFileError(document.broken(f"{type(error).__name__}: {error}")) from error
    if not splats:
        raise InputFileError(document.broken(f"no primitive of its scene has {EXTENSION}"))

    return replace(joined(splats), **_notes(document))


def _notes(document: Document) -> dict[str, Any]:
    """Return what the file says about itself, as `SplatArrays` holds it."""
    asset = document.json.get("asset", {})
    extras = asset.get("extras") if isinstance(asset, dict) else None
    extras = extras if isinstance(extras, dict) else {}
    comments = extras.get("comments", [])
    texts = (
        [text for text in comments if isinstance(text, str)] if isinstance(comments, list) else []
    )
    if isinstance(asset, dict) and isinstance(asset.get("copyright"), str):
        texts.append(f"copyright: {asset['copyright']}")
    return {"comments": tuple(texts), "antialiased": extras.get("antialiased") is True}


def _primitives(document: Document) -> Iterator[SplatArrays]:
    """Yield the splats of the default scene, transformed by their nodes."""
    scene = document.item("scenes", document.json.get("scene", 0))
    node_count = len(document.json.get("nodes", []))
    pending = [(index, np.eye(4), 0) for index in scene.get("nodes", [])]
    visited = 0

    # A tree visits each node at most once; more visits mean a cycle or a shared child.
    while pending:
        index, parent, depth = pending.pop()
        visited += 1
        if visited > node_count or depth > MAX_DEPTH:
            raise InputFileError(document.broken("its nodes do not form a tree"))

        node = document.item("nodes", index)
        matrix = parent @ node_matrix(document.source, node)
        pending += [(child, matrix, depth + 1) for child in node.get("children", [])]
        if "mesh" not in node:
            continue

        for primitive in document.item("meshes", node["mesh"])["primitives"]:
            extension = primitive.get("extensions", {}).get(EXTENSION)
            if extension is not None:
                yield transformed(_splat(document, primitive, extension), matrix, document.source)


def _splat(document: Document, primitive: dict[str, Any], extension: dict[str, Any]) -> SplatArrays:
    """Return the splat of a primitive, in the axes of its node."""
    compressed = extension.get("extensions") or {}
    packed = next((compressed[name] for name in SPZ if name in compressed), None)
    if packed is not None:
        arrays = _unpacked(document, primitive, packed)
    elif compressed:
        raise InputFileError(
            document.broken(f"it is compressed: {', '.join(map(str, compressed))}")
        )
    else:
        arrays = _attributes(document, primitive["attributes"])

    remarks = [
        f"not obeyed: {name} {str(extension[name])[:40]}"
        for name, value in OBEYED.items()
        if extension.get(name, value) != value
    ]
    space = extension.get("colorSpace", DISPLAY)
    if space == LINEAR:
        arrays = replace(arrays, sh=_displayed(arrays.sh))
        remarks.append("linear colours turned into those of a display")
    elif space != DISPLAY:
        remarks.append(f"not obeyed: colour space {str(space)[:40]}")
    return replace(arrays, remarks=(*arrays.remarks, *remarks))


def _attributes(document: Document, attributes: dict[str, Any]) -> SplatArrays:
    """Return the splat of a primitive's attributes."""

    def column(name: str, width: int) -> FloatArray:
        if name not in attributes:
            raise InputFileError(document.broken(f"it lacks {name}"))
        return document.accessor(attributes[name], width)

    degree = max(d for d in range(MAX_DEGREE + 1) if d == 0 or sh_name(d * d) in attributes)
    count = document.number(document.item("accessors", attributes.get("POSITION")), "count")
    document.budget.spend(
        f"{count} Gaussians", max(LEAST_PART, count * gaussian_bytes((degree + 1) ** 2))
    )

    means = column("POSITION", 3)
    sh = [column(sh_name(index), 3) for index in range((degree + 1) ** 2)]
    quats = column(f"{EXTENSION}:ROTATION", 4)
    scales = column(f"{EXTENSION}:SCALE", 3)
    opacities = column(f"{EXTENSION}:OPACITY", 1)
    if any(len(values) != len(means) for values in (*sh, quats, scales, opacities)):
        raise InputFileError(document.broken("its attributes differ in length"))

    return SplatArrays(
        means=means,
        log_scales=log_of(scales),
        quats=quats[:, [3, 0, 1, 2]],
        opacity_logits=logit(opacities[:, 0]),
        sh=np.stack(sh, axis=1),
        frame="rub",
    )


def _unpacked(document: Document, primitive: dict[str, Any], packed: dict[str, Any]) -> SplatArrays:
    """Return the splat of an SPZ blob in a buffer view, in the axes of its node.

    The draft unpacks SPZ as `luf`, half around y from what the blob holds, and takes these numbers
    for glTF's. Cesium, which it comes from, takes the numbers of the blob as they are. The bounds
    that the accessor of POSITION must have tell which was meant.
    """
    data, _ = document.view(packed.get("bufferView"))
    arrays = parse_spz(document.source, bytes(data))
    document.budget.spend(
        f"{len(arrays)} Gaussians",
        max(LEAST_PART, sum(v.nbytes for v in arrays.columns().values())),
    )

    matrix = np.eye(4)
    matrix[:3, :3] = rotation_to("luf") @ rotation_to(arrays.frame).T
    drafted = replace(transformed(arrays, matrix, document.source), frame="rub")
    plain = replace(arrays, frame="rub")
    wrong, right = (_misfit(document, primitive, splat) for splat in (drafted, plain))
    return plain if right < CLEARLY * wrong else drafted


def _misfit(document: Document, primitive: dict[str, Any], arrays: SplatArrays) -> float:
    """Return how far the bounds of a splat are from those that the accessor of POSITION has."""
    index = primitive.get("attributes", {}).get("POSITION")
    entry = {} if index is None else document.item("accessors", index)
    try:
        low, high = (np.array(entry[name], np.float64).reshape(3) for name in ("min", "max"))
    except (KeyError, ValueError, TypeError):
        return 0.0
    off = np.abs(arrays.means.min(0) - low) + np.abs(arrays.means.max(0) - high)
    return float(off.max()) + 1e-12


def _displayed(sh: FloatArray) -> FloatArray:
    """Return the harmonics of linear colours as those of displayed ones, to first order around degree 0."""
    linear = np.clip(sh[:, :1] * SH_C0 + 0.5, 0.0, None).astype(np.float64)
    dark = linear <= 0.0031308
    safe = np.maximum(linear, 0.0031308)
    srgb = np.where(dark, 12.92 * linear, 1.055 * safe ** (1 / 2.4) - 0.055)
    slope = np.where(dark, 12.92, 1.055 / 2.4 * safe ** (1 / 2.4 - 1))
    return np.concatenate([(srgb - 0.5) / SH_C0, sh[:, 1:] * slope], axis=1).astype(np.float32)

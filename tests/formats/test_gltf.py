"""glTF: attributes as the extension defines them, quantised types, nodes, and untrusted JSON."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splat_files import random_splat
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.rotations import quat_to_rotmat
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.formats.gltf.reader import load_glb
from vlm3d_gs.formats.world import rotate_gaussians, to_arrays, world_to

PREFIX = "KHR_gaussian_splatting"


def taken_apart(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def put_together(path: Path, document: dict[str, Any], buffer: bytes) -> Path:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(buffer))
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    path.write_bytes(head + chunks + struct.pack("<I4s", len(buffer), b"BIN\0") + buffer)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write_splat(random_splat(30, 1), tmp_path / "a.glb")
    return tmp_path / "a.glb"


def test_the_document_is_what_the_extension_requires(good: Path) -> None:
    document, buffer = taken_apart(good)
    primitive = document["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0
    assert primitive["extensions"][PREFIX]["kernel"] == "ellipse"
    assert primitive["extensions"][PREFIX]["colorSpace"] == "srgb_rec709_display"
    assert document["extensionsUsed"] == [PREFIX]
    assert "extensionsRequired" not in document
    assert [name for name in primitive["attributes"] if "SH" in name] == [
        f"{PREFIX}:SH_DEGREE_0_COEF_0",
        *(f"{PREFIX}:SH_DEGREE_1_COEF_{n}" for n in range(3)),
    ]
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    means = to_arrays(random_splat(30, 1), "rub").means
    np.testing.assert_allclose(position["min"], means.min(0))
    np.testing.assert_allclose(position["max"], means.max(0))
    assert len(buffer) == document["buffers"][0]["byteLength"]
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])


def test_quantised_attributes_are_read(good: Path) -> None:
    """Rotations as normalised int8, scales as normalised uint8, opacities as normalised uint16."""
    document, buffer = taken_apart(good)
    expected = load_glb(good)
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    columns = {
        "ROTATION": (5120, np.rint(expected.quats[:, [1, 2, 3, 0]] * 127).astype("i1")),
        "SCALE": (5121, np.rint(np.exp(expected.log_scales) * 255).astype("u1")),
        "OPACITY": (5123, np.full((30, 1), 32768, "<u2")),
    }
    for name, (kind, column) in columns.items():
        accessor = document["accessors"][attributes[f"{PREFIX}:{name}"]]
        stride = 4  # vertex attributes begin at multiples of four
        padded = np.zeros((30, stride // column.itemsize), column.dtype)
        padded[:, : column.shape[1]] = column
        accessor |= {
            "componentType": kind,
            "normalized": True,
            "bufferView": len(document["bufferViews"]),
        }
        document["bufferViews"].append(
            {"buffer": 0, "byteOffset": len(buffer), "byteLength": 120, "byteStride": stride}
        )
        buffer += padded.tobytes()
    document["buffers"][0]["byteLength"] = len(buffer)
    got = load_glb(put_together(good, document, buffer))
    np.testing.assert_allclose(got.quats, expected.quats, atol=0.005)
    np.testing.assert_allclose(np.exp(got.log_scales), np.exp(expected.log_scales), atol=0.0021)
    np.testing.assert_allclose(got.opacity_logits, 0.0, atol=1e-4)


def test_nodes_translate_rotate_and_scale(good: Path) -> None:
    document, buffer = taken_apart(good)
    half = math.sqrt(0.5)
    document["nodes"] = [
        {"children": [1], "scale": [2, 2, 2], "translation": [1, 0, 0]},
        {"mesh": 0, "rotation": [0, half, 0, half]},  # a quarter around y: x goes to -z
    ]
    before = load_glb(good)
    got = load_glb(put_together(good, document, buffer))
    x, y, z = before.means.T
    np.testing.assert_allclose(got.means, np.stack([2 * z + 1, 2 * y, -2 * x], 1), atol=1e-5)
    np.testing.assert_allclose(got.log_scales, before.log_scales + math.log(2), atol=1e-5)
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    scene = rotate_gaussians(random_splat(30, 1), turn @ world_to("rub"))
    np.testing.assert_allclose(got.sh, scene.sh.numpy(), atol=1e-5)
    torch.testing.assert_close(
        quat_to_rotmat(torch.from_numpy(got.quats)), quat_to_rotmat(scene.quats), rtol=0, atol=1e-5
    )


def test_a_column_major_matrix_is_the_same_as_its_parts(good: Path) -> None:
    document, buffer = taken_apart(good)
    document["nodes"][0]["matrix"] = [0, 0, -3, 0, 0, 3, 0, 0, 3, 0, 0, 0, 5, 6, 7, 1]
    x, y, z = load_glb(good).means.T
    got = load_glb(put_together(good, document, buffer)).means
    np.testing.assert_allclose(got, np.stack([3 * z + 5, 3 * y + 6, -3 * x + 7], 1), atol=1e-5)


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    *outer, last, value = path

    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in outer:
            place = place[key]
        place[last] = value

    return change


ATTRIBUTES = ("meshes", 0, "primitives", 0, "attributes")


@pytest.mark.parametrize(
    "change",
    [
        _set("accessors", 0, "count", 2**31),
        _set("accessors", 0, "count", -1),
        _set("accessors", 0, "count", "many"),
        _set("accessors", 0, "byteOffset", 2**40),
        _set("accessors", 0, "bufferView", 99),
        _set("accessors", 0, "componentType", 5125),
        _set("accessors", 0, "type", "MAT4"),
        _set("accessors", 0, "sparse", {}),
        _set("bufferViews", 0, "byteStride", 2**40),
        _set("bufferViews", 0, "byteLength", 2**40),
        _set("bufferViews", 0, "buffer", 1),
        _set("buffers", 0, "uri", "file:///etc/passwd"),
        _set(*ATTRIBUTES, "POSITION", True),
        _set(*ATTRIBUTES, f"{PREFIX}:SCALE", -1),
        _set("nodes", 0, "children", [0]),
        _set("nodes", 0, "scale", [0, 0, 0]),
        _set("nodes", 0, "rotation", "up"),
        _set("nodes", 0, "matrix", [math.nan] * 16),
        _set("nodes", {}),
        _set("scene", 4),
        _set("meshes", []),
        _set("meshes", 0, "primitives", 0, "extensions", {}),
        _set("extensionsRequired", ["KHR_draco_mesh_compression"]),
        _set("buffers", 0, "uri", "../a.bin"),
        _set("buffers", 0, "uri", "data:;base64,????"),
        _set("meshes", 0, "primitives", 0, "extensions", PREFIX, "extensions", {"X_spz": {}}),
    ],
)
def test_untrusted_json_is_refused(good: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document, buffer = taken_apart(good)
    change(document)
    with pytest.raises(InputFileError):
        read_splat(put_together(good, document, buffer))


def test_a_missing_attribute_is_named(good: Path) -> None:
    document, buffer = taken_apart(good)
    del document["meshes"][0]["primitives"][0]["attributes"][f"{PREFIX}:SH_DEGREE_1_COEF_1"]
    with pytest.raises(InputFileError, match="SH_DEGREE_1_COEF_1"):
        read_splat(put_together(good, document, buffer))

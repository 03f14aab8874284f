"""Small files that want much memory are refused before they get it; what is added up is bounded, too."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from splat_files import random_splat
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.images import MAX_PIXELS, load_png, save_png
from vlm3d_gs.formats import claims
from vlm3d_gs.formats.claims import FREE_BYTES, MAX_EXPANSION, Budget
from vlm3d_gs.formats.convert import load_arrays, read_splat, write_splat


@contextmanager
def refused(message: str, most_mib: int = 16) -> Iterator[None]:
    """Expect our error before much memory is taken."""
    tracemalloc.start()
    with pytest.raises(InputFileError, match=message):
        yield
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < most_mib * 2**20, f"{most / 2**20:.0f} MiB"


def repacked(path: Path, changes: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    """Write a .sog again with some members changed, and those packed by a method."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()} | changes
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            packed = method if name in changes else zipfile.ZIP_STORED
            new.writestr(name, content, compress_type=packed)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_of_a_sog_are_stored_or_deflated(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.sog"
    write_splat(random_splat(40, 1), path)
    repacked(path, {"meta.json": bytes(2**20)}, method)
    with refused(f"by method {method}; a .sog is stored or deflated"):
        load_arrays(path)


def test_a_deflated_member_is_read_and_a_long_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sog"
    write_splat(random_splat(40, 1), path)
    with zipfile.ZipFile(path) as old:
        meta = old.read("meta.json")
    repacked(path, {"meta.json": meta}, zipfile.ZIP_DEFLATED)
    assert len(read_splat(path)) == 40
    repacked(path, {"meta.json": bytes(2**24)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputFileError, match="longer than 1048576"):
        load_arrays(path)


def flat_webp(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (side, side), (9, 9, 9, 255)).save(
        buffer, "WEBP", lossless=True, method=0, quality=0
    )
    return buffer.getvalue()


@pytest.mark.parametrize(("side", "count"), [(1500, 2_250_000), (2600, 40)])
def test_flat_pictures_of_a_sog_promise_too_much_in_sum(
    tmp_path: Path, side: int, count: int
) -> None:
    """The first by its Gaussians, the second by its pictures, of which each alone would pass."""
    path = tmp_path / "a.sog"
    write_splat(random_splat(40, 0), path)
    with zipfile.ZipFile(path) as old:
        meta = json.loads(old.read("meta.json"))
        pictures = {name: flat_webp(side) for name in old.namelist() if name.endswith(".webp")}
    assert 4 * side * side < FREE_BYTES
    repacked(path, {**pictures, "meta.json": json.dumps({**meta, "count": count}).encode()})
    with refused("unpacked with all before", 128):
        load_arrays(path)


def glb_with(path: Path, nodes: int, primitives: int = 1) -> None:
    """Write a .glb whose nodes share one mesh, and whose primitives share the same bytes."""
    write_splat(random_splat(1400, 3), path)
    data = path.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    content = json.loads(data[20 : 20 + length])
    content["meshes"][0]["primitives"] *= primitives
    content["nodes"] = [content["nodes"][0]] * nodes
    content["scenes"][0]["nodes"] = list(range(nodes))
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I", len(text)) + b"JSON" + text + data[20 + length :]
    path.write_bytes(data[:8] + struct.pack("<I", 12 + len(body)) + body)


@pytest.mark.parametrize(("nodes", "primitives"), [(1000, 1), (1, 1000), (40, 40)])
def test_nodes_of_a_glb_that_share_a_mesh_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int, primitives: int
) -> None:
    path = tmp_path / "a.glb"
    glb_with(path, nodes, primitives)
    monkeypatch.setattr(claims, "FREE_BYTES", 2**20)
    with refused("unpacked with all before", 64):
        load_arrays(path)


def test_a_few_nodes_may_share_a_mesh(tmp_path: Path) -> None:
    glb_with(tmp_path / "a.glb", 5)
    assert len(load_arrays(tmp_path / "a.glb")) == 5 * 1400


def test_an_spz_of_zeros_promises_too_much(tmp_path: Path) -> None:
    count = 1_500_000
    body = struct.pack("<4sIIBBBB", b"NGSP", 3, count, 0, 12, 0, 0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(body + bytes(2**20)))
    with refused("1500000 Gaussians"):
        load_arrays(tmp_path / "a.spz")


def test_parts_are_added_up() -> None:
    budget = Budget(Path("a"), 10)
    budget.spend("one", FREE_BYTES)
    budget.spend("two", 10 * MAX_EXPANSION)
    with pytest.raises(InputFileError, match="promises three"):
        budget.spend("three", 1)


@pytest.mark.parametrize("width", [4097, 30_000, 2**20])
def test_pictures_are_bounded_before_they_are_decoded(tmp_path: Path, width: int) -> None:
    """The last by Pillow itself."""
    path = tmp_path / "a.png"
    save_png(torch.rand(5, 7, 3), path)
    data = bytearray(path.read_bytes())
    assert load_png(path).shape == (5, 7, 3)

    data[16:24] = struct.pack(">II", width, 4096)  # width and height in the header
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    with refused(f"{width} x 4096 pixels; at most {MAX_PIXELS}|exceeds limit", 4):
        load_png(path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_png_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputFileError, match="not a readable PNG"):
        load_png(tmp_path / "a.png")
    with pytest.raises(InputFileError, match="not a readable PNG"):
        load_png(tmp_path / "none.png")


def test_files_without_gaussians_are_named(tmp_path: Path) -> None:
    write_splat(random_splat(1, 0), tmp_path / "a.ply")
    head = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")[0]
    (tmp_path / "a.ply").write_bytes(head.replace(b"vertex 1", b"vertex 0") + b"end_header\n")
    body = struct.pack("<4sIIBBBB", b"NGSP", 3, 0, 0, 12, 0, 0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(body))
    (tmp_path / "b.spz").write_bytes(struct.pack("<4sIIBBBBI12x", b"NGSP", 4, 0, 0, 12, 0, 5, 32))
    for name in ("a.ply", "a.spz", "b.spz"):
        with pytest.raises(InputFileError, match="holds no Gaussians"):
            read_splat(tmp_path / name)


def test_a_column_name_with_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    write_splat(random_splat(3, 1), tmp_path / "a.ply")
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data.replace(b"f_rest_8", b"f_rest_" + b"8" * 5000))
    with pytest.raises(InputFileError, match="f_rest properties"):
        load_arrays(tmp_path / "a.ply")

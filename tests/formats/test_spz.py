"""export.spz beyond the round trip: old versions, axes records, degree 4, far and tiny scenes."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from splat_files import random_splat
from vlm3d_gs.core.errors import ExportError, InputFileError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.formats.options import SplatOptions, SpzVersion
from vlm3d_gs.formats.spz.stream import load_spz


def by_hand(
    version: int, degree: int, columns: list[bytes], flags: int = 0, tail: bytes = b""
) -> bytes:
    """A gzip container of one Gaussian."""
    header = struct.pack("<4sIIBBBB", b"NGSP", version, 1, degree, 12, flags, 0)
    return gzip.compress(header + b"".join(columns) + tail)


POSITION = struct.pack("<i", 4096)[:3] + struct.pack("<i", -2048)[:3] + struct.pack("<i", 1)[:3]
REST = [bytes([255]), bytes([128, 0, 255]), bytes([160, 144, 0]), bytes([255, 128, 128])]


def test_a_file_made_by_hand(tmp_path: Path) -> None:
    """The layout of version 2, byte by byte."""
    (tmp_path / "a.spz").write_bytes(by_hand(2, 0, [POSITION, *REST]))
    got = load_spz(tmp_path / "a.spz")
    np.testing.assert_allclose(got.means, [[1.0, -0.5, 1 / 4096]])
    np.testing.assert_allclose(got.log_scales, [[0.0, -1.0, -10.0]])
    np.testing.assert_allclose(got.quats, [[0.0, 1.0, 0.0039, 0.0039]], atol=1e-3)
    np.testing.assert_allclose(got.sh[0, 0], np.array([0.5, -127.5, 127.5]) / 38.25, rtol=1e-6)
    assert 6 < got.opacity_logits[0] < 8


def test_version_1_has_half_floats(tmp_path: Path) -> None:
    position = np.array([1.5, -2.25, 0.125], "<f2").tobytes()
    (tmp_path / "a.spz").write_bytes(by_hand(1, 0, [position, *REST]))
    assert load_spz(tmp_path / "a.spz").means.tolist() == [[1.5, -2.25, 0.125]]


def test_of_degree_4_three_bands_are_kept(tmp_path: Path) -> None:
    columns = [POSITION, *REST, b"\0", bytes(range(72))]
    (tmp_path / "a.spz").write_bytes(by_hand(3, 4, columns))
    got = load_spz(tmp_path / "a.spz")
    assert got.sh.shape == (1, 16, 3)
    np.testing.assert_allclose(got.sh[0, 1:].reshape(-1), (np.arange(45) - 128) / 128)


@pytest.mark.parametrize(
    ("code", "frame"), [(0, "rub"), (4, "rub"), (6, "rdf"), (7, "luf"), (1, "ldb")]
)
def test_a_record_of_the_axes_is_believed(tmp_path: Path, code: int, frame: str) -> None:
    other = struct.pack("<II5s", 0xADBE0002, 5, b"other")
    record = struct.pack("<III", 0xADBE0003, 4, code)
    data = by_hand(2, 0, [POSITION, *REST], flags=2, tail=other + record)
    (tmp_path / "a.spz").write_bytes(data)
    assert load_spz(tmp_path / "a.spz").frame == frame


def test_other_axes_are_told(tmp_path: Path) -> None:
    record = struct.pack("<III", 0xADBE0003, 4, 8)
    (tmp_path / "a.spz").write_bytes(by_hand(2, 0, [POSITION, *REST], 2, record))
    with pytest.raises(InputFileError, match="code 8"):
        load_spz(tmp_path / "a.spz")


def test_a_file_is_right_up_back_unless_it_says_otherwise(tmp_path: Path) -> None:
    """As the specification has it, and public files are; a file of ours says so from version 4 on."""
    scene = random_splat(20, 0)
    for version, said in ((2, 0), (3, 0), (4, 2)):
        path = tmp_path / f"{version}.spz"
        write_splat(scene, path, SplatOptions(spz_version=version))  # type: ignore[arg-type]
        data = path.read_bytes()
        header = data if version == 4 else gzip.decompress(data)
        assert header[14] == said
        x, y, z = scene.means.T
        right_up_back = torch.stack([y, z, x], dim=1).numpy()
        np.testing.assert_allclose(load_spz(path).means, right_up_back, rtol=0, atol=2e-4)
    with_axes = tmp_path / "3-rdf.spz"
    write_splat(scene, with_axes, SplatOptions(spz_version=3, frame="rdf"))
    assert gzip.decompress(with_axes.read_bytes())[14] == 2
    assert load_spz(with_axes).frame == "rdf"
    # Files of ours from before are in the axes of the PLY. Versions 2 and 3 did not say so.
    unsaid = gzip.decompress(with_axes.read_bytes())[:-12]
    (tmp_path / "old.spz").write_bytes(gzip.compress(unsaid[:14] + b"\0" + unsaid[15:]))
    back = read_splat(tmp_path / "old.spz", frame="rdf")
    torch.testing.assert_close(back.means, scene.means, rtol=0, atol=2e-4)


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_that_somebody_has_unpacked_is_read(tmp_path: Path, version: SpzVersion) -> None:
    write_splat(random_splat(20, 1), tmp_path / "a.spz", SplatOptions(spz_version=version))
    expected = read_splat(tmp_path / "a.spz")
    plain = gzip.decompress((tmp_path / "a.spz").read_bytes())
    (tmp_path / "a.spz").write_bytes(plain)
    got = read_splat(tmp_path / "a.spz")
    assert all(torch.equal(v, expected.parameters()[k]) for k, v in got.parameters().items())
    for length in (3, 7, 15, len(plain) - 1):
        (tmp_path / "a.spz").write_bytes(plain[:length])
        with pytest.raises(InputFileError):
            load_spz(tmp_path / "a.spz")


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    """200 MB of zeros in 200 kB: every claim is met, and no splat is like that."""
    count = 10_000_000
    header = struct.pack("<4sIIBBBB", b"NGSP", 3, count, 0, 12, 0, 0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(header + bytes(20 * count), 6))
    with pytest.raises(InputFileError, match="exhaust memory"):
        load_spz(tmp_path / "a.spz")


@pytest.mark.parametrize("reach", [1e-3, 0.3, 1.0, 1000.0, 1e6])
def test_positions_keep_their_digits_at_any_size(tmp_path: Path, reach: float) -> None:
    scene = random_splat(100, 0)
    grown = Gaussians.from_parameters({**scene.parameters(), "means": scene.means * reach})
    write_splat(grown, tmp_path / "a.spz")
    error = (read_splat(tmp_path / "a.spz").means - grown.means).abs().max()
    assert error <= reach * 2**-12 + 1e-9


def test_a_scene_too_large_is_told(tmp_path: Path) -> None:
    scene = random_splat(3, 0)
    scene.means[1, 1] = 2.0**23
    with pytest.raises(ExportError, match=r"2\^22"):
        write_splat(scene, tmp_path / "a.spz")

"""Reading .ksplat files that GaussianSplats3D 0.4.7 wrote, and what is done with damaged ones.

The files under tests/golden/ksplat hold scene.ply as its `PlyLoader.loadFromFileData` packs it:
degree 2, sections of up to 12 Gaussians, buckets of up to 3, some of them not full.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from splat_files import KSPLATS, Case, assert_same_splat, flipped, golden_ksplat
from vlm3d_gs.core.errors import ConfigError, ExportError, InputFileError
from vlm3d_gs.edit.convert import convert_edited
from vlm3d_gs.edit.settings import Edits
from vlm3d_gs.formats.convert import load_arrays, read_splat, write_splat
from vlm3d_gs.formats.options import SplatOptions

RDF = SplatOptions(frame="rdf")
BYTE = 1 / 255 + 1e-5  # their bytes are rounded down
CASES = (
    Case(".ksplat", RDF, 2e-6, 2e-6, 4e-6, BYTE, BYTE, 1e-6, most_degree=2),
    Case(".ksplat", RDF, 4e-5, 1e-3, 4e-3, BYTE, BYTE, 1e-3, most_degree=2),
    Case(".ksplat", RDF, 4e-5, 1e-3, 4e-3, BYTE, BYTE, 9e-3, most_degree=2),
)
"""By level of compression."""
LEVELS = range(3)
FIRST_SECTION = 4096


def patched(path: Path, offset: int, kind: str, value: float) -> Path:
    """Overwrite a number of a file."""
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{kind}", data, offset, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("level", LEVELS)
def test_files_of_its_own_program_hold_the_scene(tmp_path: Path, level: int) -> None:
    got = read_splat(golden_ksplat(tmp_path, level))
    assert_same_splat(got, read_splat(KSPLATS / "scene.ply"), CASES[level])


@pytest.mark.parametrize("level", LEVELS)
def test_first_bytes_tell_whatever_the_name(tmp_path: Path, level: int) -> None:
    path = golden_ksplat(tmp_path, level)
    renamed = path.rename(tmp_path / "a.ply")
    assert len(load_arrays(renamed)) == 30


def test_sections_may_differ_in_degree(tmp_path: Path) -> None:
    """The last section says degree 0, so that its Gaussians are shorter and the others keep theirs."""
    path = golden_ksplat(tmp_path, 0)
    whole = load_arrays(path)
    patched(path, FIRST_SECTION + 2 * 1024 + 40, "H", 0)
    got = load_arrays(path)
    np.testing.assert_array_equal(got.sh[:24], whole.sh[:24])
    np.testing.assert_array_equal(got.means[24], whole.means[24])
    assert not got.sh[24:, 1:].any()


@pytest.mark.parametrize(
    ("offset", "kind", "value", "message"),
    [
        (1, "B", 2, "is no splat"),
        (20, "H", 3, "level 3"),
        (4, "I", 2**31, "sections"),
        (4, "I", 60_000, "promises 60000 sections"),
        (16, "I", 31, "promises 31 Gaussians, its sections 30"),
        (FIRST_SECTION + 40, "H", 4, "degree 4"),
        (FIRST_SECTION, "I", 13, "13 Gaussians with room for 12"),
        (FIRST_SECTION + 4, "I", 2**31, "promises 2147483648 Gaussians"),
        (FIRST_SECTION + 12, "I", 2**30, "truncated"),
        (FIRST_SECTION + 8, "I", 1, "too few buckets"),
        (FIRST_SECTION + 32, "I", 2, "no usable buckets"),
        (FIRST_SECTION + 16, "f", float("inf"), "NaN or infinite"),
    ],
)
def test_damage_is_named(
    tmp_path: Path, offset: int, kind: str, value: float, message: str
) -> None:
    path = patched(golden_ksplat(tmp_path, 1), offset, kind, value)
    with pytest.raises(InputFileError, match=message):
        read_splat(path)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = golden_ksplat(tmp_path, 2)
    data = path.read_bytes()
    for length in (8, 4095, 4096, 7000, 7200, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(InputFileError, match="truncated"):
            read_splat(path)


def test_damaged_bits_are_read_or_refused(tmp_path: Path) -> None:
    for seed in range(60):
        path = golden_ksplat(tmp_path, seed % 3)
        flipped(path, seed)
        with suppress(InputFileError):
            read_splat(path)


def test_it_is_read_and_not_written(tmp_path: Path) -> None:
    source, scene = golden_ksplat(tmp_path, 1), read_splat(KSPLATS / "scene.ply")
    done = convert_edited(source, tmp_path / "a.spz", Edits(), source_format="ksplat")
    assert done.count == 30
    with pytest.raises(ExportError, match=r"only read. Choose one of .ply,"):
        write_splat(scene, tmp_path / "a.ksplat")
    with pytest.raises(ExportError, match=r"only read. Choose one of .glb"):
        write_splat(scene, tmp_path / "a.gltf")
    with pytest.raises(ConfigError, match="no splat format that is written"):
        convert_edited(source, tmp_path / "a", Edits(), target_format="ksplat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.spz", "level1.ksplat"]

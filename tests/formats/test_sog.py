"""export.sog and its palettes: closeness, bounds, and what a stranger's zip may not do."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from splat_files import random_splat
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.formats.sog.palettes import nearest_codes, number_palette, vector_palette


def repacked(path: Path, **changes: object) -> Path:
    """The same file with some entries of its JSON changed; a dotted name goes inside."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    meta = json.loads(members["meta.json"])
    for name, value in changes.items():
        place = meta
        *outer, last = name.split("__")
        for key in outer:
            place = place[key]
        place[last] = value
    members["meta.json"] = json.dumps(meta).encode()
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write_splat(random_splat(50, 1), tmp_path / "a.sog")
    return tmp_path / "a.sog"


def test_few_numbers_are_kept_exactly() -> None:
    values = np.array([3.5, -1.0, 3.5, 7.25], np.float32)
    palette = number_palette(values)
    assert palette.shape == (256,)
    np.testing.assert_array_equal(palette[nearest_codes(values, palette)], values)


def test_numbers_are_close_in_the_middle_and_not_far_at_the_ends() -> None:
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    palette = number_palette(values)
    assert (np.diff(palette) > 0).all()
    error = palette[nearest_codes(values, palette)] - values
    assert np.sqrt(np.square(error).mean()) < 0.0075  # 256 even steps: 0.0098
    assert np.abs(error).max() < 0.09
    every = np.abs(values[:2000, None] - palette).argmin(1)
    np.testing.assert_array_equal(nearest_codes(values[:2000], palette), every)


def test_a_vector_palette_is_better_than_its_parts_and_bounded() -> None:
    draw = np.random.default_rng(1)
    centers = draw.normal(size=(300, 9)).astype(np.float32)
    vectors = centers[draw.integers(0, 300, 20_000)] + 0.05 * draw.normal(size=(20_000, 9))
    vectors = vectors.astype(np.float32)
    entries, labels = vector_palette(vectors, 1024)
    assert len(entries) <= 1024
    assert 0 <= labels.min() <= labels.max() < len(entries)
    error = np.sqrt(np.square(entries[labels] - vectors).mean())
    assert error < 0.06  # the noise itself is 0.05, the centres spread by 1


def test_a_palette_of_one_group_stays_bounded() -> None:
    """Nearly all vectors alike: the largest group must not get the whole palette."""
    vectors = np.zeros((30_000, 9), np.float32)
    vectors[:500] = np.random.default_rng(2).normal(size=(500, 9))
    entries, labels = vector_palette(vectors, 4096)
    assert len(entries) <= 4096
    assert np.square(entries[labels] - vectors).mean() < 1e-2


def test_many_gaussians_share_harmonics(tmp_path: Path) -> None:
    scene = random_splat(3000, 3)
    few = scene.sh[torch.arange(3000) % 40, 1:]
    scene.sh[:, 1:] = few
    write_splat(scene, tmp_path / "a.sog")
    got = read_splat(tmp_path / "a.sog")
    got = got.select(torch.cdist(scene.means, got.means).argmin(1))
    assert float((got.sh[:, 1:] - few).square().mean().sqrt()) < 0.05  # the spread is 0.26


def test_an_unknown_version_says_what_to_do(good: Path) -> None:
    with pytest.raises(InputFileError, match="splat-transform"):
        read_splat(repacked(good, version=3))


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0},
        {"count": -3},
        {"count": "50"},
        {"count": 51_000},
        {"means__mins": [0, 0]},
        {"means__files": ["../../etc/passwd", "means_u.webp"]},
        {"means__files": 7},
        {"scales__codebook": [0.0] * 255},
        {"scales__codebook": ["a"] * 256},
        {"sh0__codebook": [None] * 256},
        {"shN__count": 3},
        {"shN__count": 60_000},
        {"shN__bands": 4},
        {"quats": {}},
        {"sh0": None},
    ],
    ids=str,
)
def test_damaged_ranges_are_told(good: Path, change: dict[str, object]) -> None:
    with pytest.raises(InputFileError):
        read_splat(repacked(good, **change))


def test_an_image_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, good: Path) -> None:
    from PIL import Image

    Image.new("RGB", (16_000, 5_000)).save(tmp_path / "big.webp", lossless=True)
    with zipfile.ZipFile(good) as old:
        members = {name: old.read(name) for name in old.namelist()}
    members["means_l.webp"] = (tmp_path / "big.webp").read_bytes()
    with zipfile.ZipFile(good, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    with pytest.raises(InputFileError, match="exhaust memory"):
        read_splat(good)

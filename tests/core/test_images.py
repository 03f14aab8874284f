"""images: compositing, resizing, bytes, PNG files, grids, labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlm3d_gs.core import images
from vlm3d_gs.core.errors import ExportError, ShapeError


def test_composite_mixes_by_alpha(generator: torch.Generator) -> None:
    straight = torch.rand(2, 4, 5, 3, generator=generator)
    alpha = torch.rand(2, 4, 5, 1, generator=generator)
    background = (0.2, 0.4, 0.9)
    expected = straight * alpha + torch.tensor(background) * (1 - alpha)
    torch.testing.assert_close(images.composite(straight * alpha, alpha, background), expected)
    restored = images.unpremultiply(straight * alpha, alpha)
    torch.testing.assert_close(restored, straight, rtol=1e-4, atol=1e-5)


def test_composite_is_differentiable(generator: torch.Generator) -> None:
    color = torch.rand(1, 2, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    alpha = torch.rand(1, 2, 2, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    back = torch.rand(3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(images.composite, (color, alpha, back))


def test_composite_refuses_mismatched_alpha() -> None:
    with pytest.raises(ShapeError, match="alpha"):
        images.composite(torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, 3), images.WHITE)


def test_unpremultiply_of_nothing_is_black() -> None:
    result = images.unpremultiply(torch.full((1, 1, 3), 1e-9), torch.zeros(1, 1, 1))
    assert torch.equal(result, torch.zeros(1, 1, 3))


def test_resize_keeps_flat_pictures_flat_and_averages_when_shrinking() -> None:
    flat = torch.full((1, 8, 8, 3), 0.3)
    torch.testing.assert_close(images.resize(flat, 3, 5), torch.full((1, 3, 5, 3), 0.3))
    checker = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float()[None, :, :, None]
    small = images.resize(checker.expand(1, 8, 8, 3), 2, 2)
    torch.testing.assert_close(small, torch.full((1, 2, 2, 3), 0.5), atol=0.02, rtol=0)
    assert images.resize(flat, 8, 8) is flat


def test_resize_refuses_bad_input() -> None:
    with pytest.raises(ShapeError):
        images.resize(torch.zeros(8, 8, 3), 4, 4)
    with pytest.raises(ShapeError):
        images.resize(torch.zeros(1, 8, 8, 3), 0, 4)


def test_to_uint8_rounds_and_clips() -> None:
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 7.0, float("nan")])
    assert images.to_uint8(values).tolist() == [0, 0, 128, 255, 255, 0]


def test_png_round_trip_is_exact_and_deterministic(
    tmp_path: Path, generator: torch.Generator
) -> None:
    picture = torch.randint(0, 256, (6, 7, 3), generator=generator) / 255.0
    images.save_png(picture, tmp_path / "a.png")
    images.save_png(picture, tmp_path / "b.png")
    torch.testing.assert_close(images.load_png(tmp_path / "a.png"), picture.float())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_png_into_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not exist"):
        images.save_png(torch.zeros(2, 2, 3), tmp_path / "missing" / "a.png")
    with pytest.raises(ShapeError):
        images.save_png(torch.zeros(1, 2, 2, 3), tmp_path / "a.png")


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with images.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_tile_grid_places_pictures_in_reading_order() -> None:
    pictures = torch.arange(3.0)[:, None, None, None].expand(3, 2, 2, 3) / 10
    sheet = images.tile_grid(pictures, columns=2, gap_px=1, fill=(1.0, 0.0, 0.0))
    assert sheet.shape == (5, 5, 3)
    assert sheet[0, 0, 0] == 0.0
    assert sheet[0, 3, 0] == pytest.approx(0.1)
    assert sheet[3, 0, 0] == pytest.approx(0.2)
    assert sheet[2, 0].tolist() == [1.0, 0.0, 0.0]  # the gap
    assert sheet[4, 4].tolist() == [1.0, 0.0, 0.0]  # the missing fourth
    assert images.tile_grid(pictures, columns=9, gap_px=0).shape == (2, 6, 3)
    with pytest.raises(ShapeError):
        images.tile_grid(pictures[:0], columns=2)


def test_label_marks_only_the_corner_and_leaves_empty_texts_alone() -> None:
    grey = torch.full((2, 64, 96, 3), 128 / 255)
    marked = images.label(grey, ["front", ""])
    assert not torch.equal(marked[0, :24], grey[0, :24])
    torch.testing.assert_close(marked[0, 32:], grey[0, 32:])
    torch.testing.assert_close(marked[1], grey[1])
    with pytest.raises(ShapeError):
        images.label(grey, ["one"])

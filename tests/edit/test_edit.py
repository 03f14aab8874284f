"""Edits of splats: each keeps what it says, and a moved scene shows the moved picture."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch

from vlm3d_gs.core.errors import ConfigError, ExportError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.harmonics import eval_sh
from vlm3d_gs.edit.convert import convert_edited
from vlm3d_gs.edit.decimate import contributions, most_contributing
from vlm3d_gs.edit.select import in_largest_part
from vlm3d_gs.edit.settings import Edits, kept_count, parse_edits
from vlm3d_gs.edit.transform import euler_rotation, transformed
from vlm3d_gs.formats.convert import convert, load_arrays, read_splat, write_splat
from vlm3d_gs.formats.options import SplatOptions
from vlm3d_gs.formats.stream import PIECE

WORLD = SplatOptions(frame="world")


def scene_of(n: int, generator: torch.Generator, coefficients: int = 4) -> Gaussians:
    return Gaussians(
        means=torch.randn(n, 3, generator=generator),
        log_scales=torch.randn(n, 3, generator=generator) * 0.5 - 3,
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=-1),
        opacity_logits=torch.randn(n, generator=generator) * 2,
        sh=torch.randn(n, coefficients, 3, generator=generator) * 0.3,
    )


def edited_scene(folder: Path, scene: Gaussians, edits: Edits) -> Gaussians:
    write_splat(scene, folder / "in.ply", WORLD)
    convert_edited(folder / "in.ply", folder / "out.ply", edits, WORLD, overwrite=True)
    return read_splat(folder / "out.ply")


def test_each_test_keeps_exactly_what_it_says(tmp_path: Path, generator: torch.Generator) -> None:
    scene = scene_of(300, generator)
    x, y, _ = scene.means.T
    expected = {
        "crop": (x >= -0.5) & (x <= 0.7) & (y <= 0.2),
        "sphere": (scene.means - torch.tensor([0.1, 0.0, -0.2])).norm(dim=-1) <= 1.2,
        "min_opacity": scene.opacities >= 0.3,
        "max_scale": scene.scales.amax(-1) <= 0.08,
    }
    asked = {"crop": "-0.5,-,-,0.7,0.2,-", "sphere": "0.1,0,-0.2,1.2"}
    numbers = {"min_opacity": 0.3, "max_scale": 0.08}
    for name, keep in expected.items():
        edits = (
            parse_edits(**{name: asked[name]}) if name in asked else Edits(**{name: numbers[name]})
        )
        assert 0 < keep.sum() < 300
        assert torch.equal(edited_scene(tmp_path, scene, edits).means, scene.means[keep]), name
    both = edited_scene(tmp_path, scene, parse_edits(**asked, **numbers))  # type: ignore[arg-type]
    assert torch.equal(both.means, scene.means[torch.stack([*expected.values()]).all(0)])


def test_the_box_is_in_the_axes_of_the_file(tmp_path: Path, generator: torch.Generator) -> None:
    scene = scene_of(100, generator)
    write_splat(scene, tmp_path / "a.ply")
    lower = load_arrays(tmp_path / "a.ply").means[:, 1] <= 0.1
    convert_edited(tmp_path / "a.ply", tmp_path / "b.ply", parse_edits(crop="-,-,-,-,0.1,-"))
    assert torch.equal(read_splat(tmp_path / "b.ply").means, scene.means[torch.from_numpy(lower)])


def test_nothing_left_is_an_error_and_writes_nothing(
    tmp_path: Path, generator: torch.Generator
) -> None:
    write_splat(scene_of(5, generator), tmp_path / "a.ply")
    with pytest.raises(ExportError, match="Nothing is left: none of the 5"):
        convert_edited(tmp_path / "a.ply", tmp_path / "b.ply", parse_edits(crop="9,9,9,10,10,10"))
    assert not (tmp_path / "b.ply").exists()


def test_a_moved_scene_is_moved_as_a_function(tmp_path: Path, generator: torch.Generator) -> None:
    scene = scene_of(40, generator, 16)
    moved = edited_scene(
        tmp_path, scene, parse_edits(scale=2.5, rotate="30,-50,110", translate="1,2,-3")
    )
    rotation = euler_rotation((30.0, -50.0, 110.0)).float()
    assert torch.det(rotation) == pytest.approx(1.0)
    # about x first, then y, then z: the x axis ends where the last two take it
    by_hand = euler_rotation((0, 0, 110.0)) @ euler_rotation((0, -50.0, 0))
    torch.testing.assert_close(rotation[:, 0], by_hand[:, 0].float())
    torch.testing.assert_close(euler_rotation((0, 0, 90.0))[:, 0], torch.eye(3).double()[1])

    places = 2.5 * scene.means @ rotation.T + torch.tensor([1.0, 2.0, -3.0])
    torch.testing.assert_close(moved.means, places, rtol=1e-5, atol=1e-5)
    spread = 6.25 * rotation @ scene.covariances @ rotation.T
    torch.testing.assert_close(moved.covariances, spread, rtol=1e-4, atol=1e-5)
    views = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator), dim=-1)
    torch.testing.assert_close(
        eval_sh(moved.sh, views @ rotation.T), eval_sh(scene.sh, views), rtol=1e-4, atol=1e-5
    )


def test_floaters_go_and_the_haze_of_the_main_part_stays(generator: torch.Generator) -> None:
    def cloud(n: int, at: float, logit: float) -> Gaussians:
        scene = scene_of(n, generator)
        means = torch.nn.functional.normalize(scene.means, dim=-1) * 0.5 + at
        logits = torch.full((n,), logit)
        return Gaussians(**{**scene.parameters(), "means": means, "opacity_logits": logits})

    groups = [cloud(2000, 0.0, 2.0), cloud(60, 3.0, 4.0), cloud(50, 0.0, -5.0), cloud(9, 6.0, -5.0)]
    scene = Gaussians(
        **{
            name: torch.cat([group.parameters()[name] for group in groups])
            for name in groups[0].parameters()
        }
    )
    keep = in_largest_part(scene).split([2000, 60, 50, 9])
    assert [bool(part.all()) for part in keep] == [True, False, True, False]
    assert not keep[1].any()
    assert not keep[3].any()


def test_what_no_picture_shows_is_dropped_first(generator: torch.Generator) -> None:
    shell, core = scene_of(3000, generator), scene_of(500, generator)
    parameters = {
        name: torch.cat([shell.parameters()[name], core.parameters()[name]])
        for name in shell.parameters()
    }
    directions = torch.nn.functional.normalize(parameters["means"], dim=-1)
    parameters["means"] = (
        directions * torch.cat([torch.ones(3000), torch.full((500,), 0.3)])[:, None]
    )
    parameters["log_scales"] = torch.full((3500, 3), -2.5)
    parameters["opacity_logits"] = torch.full((3500,), 5.0)
    scene = Gaussians(**parameters)
    assert (~most_contributing(scene, 2500)[3000:]).all()
    shown = contributions(scene)
    assert shown[3000:].max() < 0.01 * shown[:3000].median()
    # The weights of all Gaussians sum to the coverage, which no picture exceeds.
    assert 0 < shown.sum() < 24 * 256 * 256


def test_decimation_keeps_as_many_as_asked(tmp_path: Path, generator: torch.Generator) -> None:
    scene = scene_of(200, generator)
    assert len(edited_scene(tmp_path, scene, Edits(decimate="50"))) == 50
    assert len(edited_scene(tmp_path, scene, Edits(decimate="10%"))) == 20
    assert len(edited_scene(tmp_path, scene, Edits(decimate="900"))) == 200
    assert kept_count("0.1%", 100) == 1


def test_merging_turns_the_second_and_pads_its_harmonics(
    tmp_path: Path, generator: torch.Generator
) -> None:
    first, second = scene_of(30, generator, 9), scene_of(20, generator, 1)
    write_splat(first, tmp_path / "a.ply", WORLD)
    write_splat(second, tmp_path / "b.glb")
    convert_edited(tmp_path / "a.ply", tmp_path / "c.ply", Edits(), merge=[tmp_path / "b.glb"])
    both = read_splat(tmp_path / "c.ply")
    torch.testing.assert_close(both.means, torch.cat([first.means, second.means]))
    torch.testing.assert_close(both.sh[30:, 0], second.sh[:, 0])
    assert not both.sh[30:, 1:].any()


@pytest.mark.parametrize("suffix", [".ply", ".splat"])
def test_pipes(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    write_splat(scene_of(30, generator), tmp_path / f"a{suffix}")
    convert(tmp_path / f"a{suffix}", tmp_path / "b.spz")

    class Standard:
        def __init__(self, content: bytes) -> None:
            self.buffer = io.BytesIO(content)

    out = Standard(b"")
    monkeypatch.setattr(sys, "stdin", Standard((tmp_path / f"a{suffix}").read_bytes()))
    monkeypatch.setattr(sys, "stdout", out)
    convert_edited("-", "-", Edits(), source_format=suffix[1:], target_format="spz")
    assert out.buffer.getvalue() == (tmp_path / "b.spz").read_bytes()


@pytest.mark.parametrize(
    "asked",
    [
        {"crop": "1,2,3"},
        {"crop": "1,0,0,0,1,1"},
        {"crop": "a,0,0,0,1,1"},
        {"sphere": "0,0,0,0"},
        {"sphere": "0,0,0,nan"},
        {"rotate": "1,2"},
        {"translate": "inf,0,0"},
        {"scale": -1.0},
        {"min_opacity": 1.5},
        {"max_scale": 0.0},
        {"decimate": "0"},
        {"decimate": "150%"},
        {"decimate": "half"},
    ],
)
def test_nonsense_is_refused_before_anything_is_read(asked: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        parse_edits(**asked)  # type: ignore[arg-type]


def test_an_output_pipe_needs_a_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--to"):
        convert_edited(tmp_path / "a.ply", "-", Edits())
    with pytest.raises(ConfigError, match="Known: ply"):
        convert_edited(tmp_path / "a.ply", "-", Edits(), target_format="jpeg")


def test_a_scene_of_several_pieces_is_edited_as_one(
    tmp_path: Path, generator: torch.Generator
) -> None:
    scene = scene_of(2 * PIECE + 5, generator, 1)
    keep = scene.means[:, 0] >= 1.0
    kept = edited_scene(tmp_path, scene, parse_edits(crop="1,-,-,-,-,-"))
    assert torch.equal(kept.means, scene.means[keep])
    assert torch.equal(kept.sh, scene.sh[keep])
    moved = transformed(
        kept, scale=1.0, rotation=torch.eye(3), translation=torch.tensor([0.0, 0.0, 1.0])
    )
    assert torch.equal(moved.means[:, 2], kept.means[:, 2] + 1.0)

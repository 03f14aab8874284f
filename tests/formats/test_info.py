"""What `info` reports, and the commands `convert` and `info`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from splat_files import random_splat
from vlm3d_gs.cli import app
from vlm3d_gs.core.errors import MissingDependencyError
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.formats.info import info_text, inspect_splat
from vlm3d_gs.formats.ply.splat import save_ply
from vlm3d_gs.formats.stream import SplatStream
from vlm3d_gs.formats.world import to_arrays

RUNNER = CliRunner()


@pytest.fixture
def arrays() -> SplatArrays:
    return to_arrays(random_splat(200, 2), "rdf")


def warnings_of(path: Path, arrays: SplatArrays, **changes: object) -> str:
    save_ply(SplatStream.of_arrays(replace(arrays, **changes)), path)  # type: ignore[arg-type]
    return "\n".join(inspect_splat(path).warnings)


def test_numbers_and_histograms(tmp_path: Path, arrays: SplatArrays) -> None:
    save_ply(SplatStream.of_arrays(arrays), tmp_path / "a.ply")
    info = inspect_splat(tmp_path / "a.ply")
    assert (info.format, info.count, info.sh_degree, info.frame) == ("ply", 200, 2, "rdf")
    np.testing.assert_array_equal(info.low, arrays.means.min(0))
    np.testing.assert_array_equal(info.high, arrays.means.max(0))
    assert sum(info.opacity_histogram) == 200
    opacities = 1 / (1 + np.exp(-arrays.opacity_logits))
    assert info.opacity_histogram[9] == (opacities >= 0.9).sum()
    assert sum(info.scale_histogram.values()) == 600
    assert (
        info.scale_histogram[-2]
        == ((np.exp(arrays.log_scales) >= 0.01) & (np.exp(arrays.log_scales) < 0.1)).sum()
    )
    assert info.warnings == ()
    assert "200 Gaussians, harmonics of degree 2" in info_text(info)


def test_a_healthy_scene_has_no_warnings_in_any_format(tmp_path: Path) -> None:
    for suffix in (".ply", ".compressed.ply", ".splat", ".spz", ".sog", ".glb"):
        write_splat(random_splat(200, 1), tmp_path / f"a{suffix}")
        assert inspect_splat(tmp_path / f"a{suffix}").warnings == ()


def test_what_looks_wrong_is_a_warning(tmp_path: Path, arrays: SplatArrays) -> None:
    path = tmp_path / "a.ply"
    means, scales, quats = arrays.means.copy(), arrays.log_scales.copy(), arrays.quats.copy()
    means[3, 1], quats[5:9] = np.nan, 0.0
    warnings = warnings_of(path, arrays, means=means, quats=quats)
    assert "means is NaN or infinite in 1 Gaussians" in warnings
    assert "4 quaternions are zero" in warnings
    scales[7, 0] = 8.0
    assert "1 Gaussians are over 10 times" in warnings_of(path, arrays, log_scales=scales)
    scales = np.full_like(scales, -40.0)
    assert "200 Gaussians are too small" in warnings_of(path, arrays, log_scales=scales)
    nothing = np.full_like(means, np.nan)
    assert "no Gaussian is finite" in warnings_of(path, arrays, means=nothing)


def test_double_activation_is_seen(tmp_path: Path, arrays: SplatArrays) -> None:
    activated = 1 / (1 + np.exp(-arrays.opacity_logits))
    warnings = warnings_of(tmp_path / "a.ply", arrays, opacity_logits=activated)
    assert "opacities look activated twice" in warnings
    warnings = warnings_of(tmp_path / "a.ply", arrays, log_scales=np.exp(arrays.log_scales))
    assert "scales look activated twice" in warnings


def test_info_prints_text_and_json(tmp_path: Path, arrays: SplatArrays) -> None:
    save_ply(SplatStream.of_arrays(arrays), tmp_path / "a.ply")
    text = RUNNER.invoke(app, ["info", str(tmp_path / "a.ply")])
    assert text.exit_code == 0, text.output
    assert "y down" in text.stdout
    nothing = np.full_like(arrays.means, np.nan)
    save_ply(SplatStream.of_arrays(replace(arrays, means=nothing)), tmp_path / "b.ply")
    found = json.loads(RUNNER.invoke(app, ["info", str(tmp_path / "b.ply"), "--json"]).stdout)
    assert found["count"] == 200
    assert found["low"] == [None, None, None]
    assert found["warnings"]


def test_convert_passes_its_options_on(tmp_path: Path) -> None:
    write_splat(random_splat(50, 1), tmp_path / "a.glb")
    target = tmp_path / "b.ply"
    command = ["convert", str(tmp_path / "a.glb"), str(target)]
    result = RUNNER.invoke(app, [*command, "--pad-sh3"])
    assert result.exit_code == 0, result.output
    assert "50 Gaussians" in result.stdout
    assert target.read_bytes().count(b"property float") == 62
    again = RUNNER.invoke(app, command)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert RUNNER.invoke(app, [*command, "--overwrite", "--sh-degree", "0"]).exit_code == 0
    assert read_splat(target).sh_degree == 0


def test_convert_writes_the_axes_asked_for(tmp_path: Path) -> None:
    write_splat(random_splat(50, 1), tmp_path / "a.ply")
    out = [str(tmp_path / "a.ply"), str(tmp_path / "b.spz")]
    assert RUNNER.invoke(app, ["convert", *out, "--frame-out", "rdf"]).exit_code == 0
    rdf, rub = (read_splat(tmp_path / "b.spz", frame=frame) for frame in (None, "rub"))
    assert (rub.means - rdf.means).abs().max() > 0.5
    back = [str(tmp_path / "b.spz"), str(tmp_path / "c.ply"), "--frame", "rub"]
    assert RUNNER.invoke(app, ["convert", *back]).exit_code == 0
    np.testing.assert_allclose(read_splat(tmp_path / "c.ply").means, rub.means, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.ply", "b.xyz"], ".compressed.ply"),
        (["none.ply", "b.ply"], "no file"),
        (["a.ply", "b.spz", "--spz-version", "7"], "2, 3 or 4"),
        (["a.ply", "b.ply", "--frame-out", "xyz"], "'rdf', 'rub', 'luf', 'ldb', 'world'"),
        (["a.ply", "b.ply", "--frame", "xyz"], "'rdf', 'rub', 'luf', 'ldb', 'world'"),
        (["a.ply", "b.glb", "--frame-out", "rdf"], "must be rub"),
        (["a.ply", "b.ply", "--sh-degree", "9"], "0, 1, 2 or 3"),
        (["a.ply", "no/where/b.ply"], "does not exist"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    write_splat(random_splat(5, 1), tmp_path / "a.ply")
    monkeypatch.chdir(tmp_path)
    result = RUNNER.invoke(app, ["convert", *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]


def test_render_takes_any_splat(tmp_path: Path) -> None:
    write_splat(random_splat(50, 1), tmp_path / "a.spz")
    command = ["render", str(tmp_path / "a.spz"), "--out", str(tmp_path / "a.gif")]
    result = RUNNER.invoke(app, [*command, "--seconds", "0.1", "--size-px", "16"])
    assert result.exit_code == 0, result.output


def test_usd_without_its_library_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(MissingDependencyError, match=r"vlm3d-gs\[usd\]"):
        write_splat(random_splat(5, 1), tmp_path / "a.usdc")
    (tmp_path / "a.usda").write_text("#usda 1.0\n")
    with pytest.raises(MissingDependencyError, match=r"vlm3d-gs\[usd\]"):
        read_splat(tmp_path / "a.usda")


def test_usd_holds_what_the_schema_says(tmp_path: Path) -> None:
    usd = pytest.importorskip("pxr.Usd", reason="usd-core is not installed")
    scene = random_splat(10, 1)
    write_splat(scene, tmp_path / "a.usda")
    expected = to_arrays(scene, "rub")
    stage = usd.Stage.Open(str(tmp_path / "a.usda"))
    prim = stage.GetDefaultPrim()
    assert prim.GetTypeName() == "ParticleField3DGaussianSplat"
    turn = prim.GetAttribute("orientations").Get()[3]
    np.testing.assert_allclose([turn.GetReal(), *turn.GetImaginary()], expected.quats[3], atol=1e-6)
    assert prim.GetAttribute("radiance:sphericalHarmonicsDegree").Get() == 1
    harmonics = np.array(prim.GetAttribute("radiance:sphericalHarmonicsCoefficients").Get())
    np.testing.assert_array_equal(harmonics[4:8], expected.sh[1])
    assert 'upAxis = "Y"' in (tmp_path / "a.usda").read_text()

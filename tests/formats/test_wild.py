"""Files as people have them: of other programs, with more and with less than the textbook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from splat_files import random_splat
from vlm3d_gs.cli import app
from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.errors import InputFileError, Vlm3dGsError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.convert import convert, load_arrays, read_splat, write_splat
from vlm3d_gs.formats.options import SplatOptions
from vlm3d_gs.formats.ply.splat import save_ply
from vlm3d_gs.formats.stream import SplatStream
from vlm3d_gs.formats.world import to_arrays

RUNNER = CliRunner()
Said = list[str]


@pytest.fixture
def said() -> Iterator[Said]:
    """What is said to the person while the test runs."""
    lines: Said = []
    with noticing(lines.append):
        yield lines


@pytest.fixture
def wild(repo_root: Path) -> Path:
    folder = repo_root.parent / "shared" / "fixtures" / "wild"
    if not folder.is_dir():
        pytest.skip("the files of the wild are not here")
    return folder


def splat_ply(
    path: Path, names: list[str], row: list[float], extra: str = "", tail: bytes = b""
) -> Path:
    """One vertex of floats, with more lines in the header and more bytes after it."""
    lines = ["ply", "format binary_little_endian 1.0", "element vertex 1"]
    lines += [f"property float {name}" for name in names]
    header = "\n".join(lines) + "\n" + extra + "end_header\n"
    path.write_bytes(header.encode() + np.array(row, "<f4").tobytes() + tail)
    return path


NAMES = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()
ROW = [1, 2, 3, 0.1, 0.2, 0.3, 0.5, -3, -4, -5, 1, 0, 0, 0]


def test_every_file_of_the_wild_opens_or_is_told(wild: Path) -> None:
    readable = {path.name for path in wild.glob("a*.ply")} | {"d_one25.ply", "evil19.ply"}
    for path in sorted(wild.iterdir()):
        try:
            read_splat(path)
        except Vlm3dGsError:
            assert path.name not in readable, path.name
        else:
            assert path.name in readable, path.name


def test_one_scene_in_four_disguises_is_one_scene(wild: Path) -> None:
    plain = read_splat(wild / "a24_utf8_comment.ply")
    for name in ("a06_medgs_time.ply", "a17_ascii_crlf.ply"):
        for key, value in read_splat(wild / name).parameters().items():
            torch.testing.assert_close(value, plain.parameters()[key], rtol=0, atol=1e-6)
    # nerfstudio's file is the same scene with z up
    upright = read_splat(wild / "a03_nerfstudio_zup.ply")
    torch.testing.assert_close(upright.means[:, 2], plain.means[:, 2], rtol=0, atol=1e-6)
    assert (read_splat(wild / "a11_posinf_opacity.ply").opacities == 1).all()


@pytest.mark.parametrize(
    ("extra", "tail"),
    [
        ("element face 0\nproperty list uchar int vertex_indices\n", b""),
        ("element face 1\nproperty list uchar int vertex_indices\n", b"\1\0\0\0\0"),
        ("element intrinsic 9\nproperty float a\nelement version 3\nproperty uchar v\n", b"." * 39),
    ],
)
def test_elements_beside_the_vertices_are_named_and_skipped(
    tmp_path: Path, said: Said, extra: str, tail: bytes
) -> None:
    path = splat_ply(tmp_path / "a.ply", NAMES, ROW, extra, tail)
    assert read_splat(path, frame="world").means.tolist() == [[1, 2, 3]]
    names = [name for name in ("face", "intrinsic", "version") if f"element {name} " in extra]
    told = [] if "face 0" in extra else [f"not read: element {', '.join(names)}"]
    assert [line.partition(": ")[2] for line in said] == told


def test_vertices_behind_other_elements_are_found(tmp_path: Path) -> None:
    path = splat_ply(tmp_path / "a.ply", NAMES, ROW)
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lists = b"element face 2\nproperty list uchar ushort i\nproperty char c\n"
    faces = b"\2\1\0\2\0\7" + b"\0\7"
    moved = head.replace(b"element vertex", lists + b"element vertex")
    path.write_bytes(moved + b"end_header\n" + faces + body)
    assert read_splat(path, frame="world").means.tolist() == [[1, 2, 3]]
    path.write_bytes(moved + b"end_header\n" + faces + body[:-1])
    with pytest.raises(InputFileError, match="truncated"):
        read_splat(path)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_comments_may_say_anything(tmp_path: Path, newline: str) -> None:
    path = splat_ply(tmp_path / "a.ply", NAMES, ROW)
    head, _, body = path.read_bytes().partition(b"end_header\n")
    comments = "comment мой скан, 100 %\ncomment not yet end_header here\n"
    text = head.decode().replace("element", comments + "element", 1) + "end_header\n"
    path.write_bytes(text.replace("\n", newline).encode() + body)
    arrays = load_arrays(path)
    assert arrays.means.tolist() == [[1, 2, 3]]
    assert arrays.comments == ("мой скан, 100 %", "not yet end_header here")


def test_limits_are_values_and_nan_is_not(tmp_path: Path, said: Said) -> None:
    scene = to_arrays(random_splat(20, 0), "rdf")
    scene.opacity_logits[:2] = [np.inf, -np.inf]
    scene.log_scales[3] = [-np.inf, -2, -2]
    save_ply(SplatStream.of_arrays(scene), tmp_path / "a.ply")
    for suffix in (".ply", ".glb", ".spz", ".sog", ".splat", ".compressed.ply"):
        convert(tmp_path / "a.ply", tmp_path / f"b{suffix}")
        got = read_splat(tmp_path / f"b{suffix}")
        assert all(value.isfinite().all() for value in got.parameters().values())
        assert float(got.opacities.max()) > 0.998
        assert float(got.opacities.min()) < 0.002
        assert float(got.scales.amin()) < 1e-3
    scene.means[5, 1], scene.opacity_logits[6] = np.nan, np.nan
    scene.log_scales[7], scene.means[8, 0] = np.inf, np.inf
    save_ply(SplatStream.of_arrays(scene), tmp_path / "a.ply")
    with pytest.raises(InputFileError, match="in 4 of 20"):
        read_splat(tmp_path / "a.ply")
    said.clear()
    convert(tmp_path / "a.ply", tmp_path / "c.ply", drop_broken=True)
    assert len(said) == 1
    assert "4 of 20 Gaussians broken and dropped" in said[0]


def test_the_rgb_ply_of_nerfstudio(tmp_path: Path) -> None:
    kept = [name for name in NAMES if not name.startswith("f_dc")]
    path = splat_ply(tmp_path / "a.ply", kept, [*ROW[:3], *ROW[6:]])
    head, _, body = path.read_bytes().partition(b"end_header\n")
    bytes_of = head + b"".join(
        b"property uchar %s\n" % name for name in (b"red", b"green", b"blue")
    )
    path.write_bytes(bytes_of + b"end_header\n" + body + bytes([255, 128, 0]))
    colors = read_splat(path).sh[0, 0] * SH_C0 + 0.5
    torch.testing.assert_close(colors, torch.tensor([255, 128, 0]) / 255)


def test_the_third_scale_of_a_flat_splat_is_thin(tmp_path: Path) -> None:
    names = [name for name in NAMES if name != "scale_2"]
    path = splat_ply(tmp_path / "a.ply", names, [*ROW[:9], *ROW[10:]])
    logs = read_splat(path).log_scales[0].tolist()
    assert logs[:2] == [-3, -4]
    assert logs[2] < -4 - np.log(100)


def test_what_a_file_says_survives(tmp_path: Path) -> None:
    scene = replace(
        to_arrays(random_splat(8, 1), "rdf"), antialiased=True, comments=("made by me",)
    )
    save_ply(SplatStream.of_arrays(scene), tmp_path / "a.ply")
    source = tmp_path / "a.ply"
    for suffix in (".sog", ".glb", ".compressed.ply", ".ply"):
        target = tmp_path / f"b{suffix}"
        convert(source, target)
        got = load_arrays(target)
        assert (got.antialiased, got.comments) == (True, ("made by me",)), suffix
        source = target
    for version in (2, 3, 4):
        convert(source, tmp_path / f"{version}.spz", SplatOptions(spz_version=version))  # type: ignore[arg-type]
        assert load_arrays(tmp_path / f"{version}.spz").antialiased


def test_what_is_read_is_drawn_and_written_with_the_filter_that_it_was_made_for(
    tmp_path: Path, said: Said
) -> None:
    scene = replace(random_splat(8, 1), antialiased=True)
    for suffix in (".ply", ".spz", ".splat"):
        write_splat(scene, tmp_path / f"a{suffix}")
        assert read_splat(tmp_path / f"a{suffix}").antialiased == (suffix != ".splat")
    assert "trained with the antialiased (mip) filter" in said[-1]
    assert not any("drawn without" in line for line in said)


def grown(**changes: float) -> SplatArrays:
    arrays = to_arrays(random_splat(300, 0), "rdf")
    return arrays.with_columns(
        {name: value + changes.get(name, 0.0) for name, value in arrays.columns().items()}
    )


def with_outlier(arrays: SplatArrays) -> SplatArrays:
    arrays.means[7] = [2e5, 0, 0]
    return arrays


LOSSES: list[tuple[str, Callable[[], SplatArrays], list[str]]] = [
    (".ply", lambda: to_arrays(random_splat(300, 3), "rdf"), []),
    (".splat", lambda: to_arrays(random_splat(300, 3), "rdf"), ["degree 3 cut to 0"]),
    (".spz", lambda: to_arrays(random_splat(300, 3), "rdf"), []),
    (".splat", lambda: grown(sh=0.5), ["colours of", "of 300 Gaussians clamped"]),
    (".spz", lambda: with_outlier(grown()), ["1 Gaussian up to 2e+05", "all others", "--crop"]),
    (".compressed.ply", lambda: with_outlier(grown()), ["those packed with it", "--crop"]),
    (".sog", lambda: with_outlier(grown()), ["all others", "--crop"]),
    (".ply", lambda: with_outlier(grown()), []),
]


@pytest.mark.parametrize(("suffix", "make", "words"), LOSSES)
def test_losses_are_said_once_in_one_line(
    tmp_path: Path, said: Said, suffix: str, make: Callable[[], SplatArrays], words: list[str]
) -> None:
    save_ply(SplatStream.of_arrays(make()), tmp_path / "a.ply")
    convert(tmp_path / "a.ply", tmp_path / f"b{suffix}")
    assert len(said) == bool(words), said
    assert all(word in said[0] for word in words), said


def scales_as_logarithms() -> SplatArrays:
    arrays = grown()
    return replace(arrays, log_scales=np.exp(arrays.log_scales))


def opacities_as_logits() -> SplatArrays:
    arrays = grown()
    return replace(arrays, opacity_logits=1 / (1 + np.exp(-arrays.opacity_logits)))


def in_millimetres() -> SplatArrays:
    arrays = grown()
    scales = np.maximum(arrays.log_scales + np.float32(np.log(1000)), 0.01).astype(np.float32)
    return replace(arrays, means=arrays.means * 1000, log_scales=scales)


def unit_cube() -> SplatArrays:
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    scene = random_splat(8, 0)
    return to_arrays(
        Gaussians(corners, corners * 0.01, scene.quats, corners[:, 0] * 0.5, scene.sh), "rdf"
    )


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (scales_as_logarithms, "scales look activated twice"),
        (opacities_as_logits, "opacities look activated twice"),
        (in_millimetres, None),
        (unit_cube, None),
        (grown, None),
        (lambda: grown().select(np.array([3])), None),
    ],
)
def test_numbers_that_were_activated_twice(
    tmp_path: Path, said: Said, make: Callable[[], SplatArrays], word: str | None
) -> None:
    save_ply(SplatStream.of_arrays(make()), tmp_path / "a.ply")
    read_splat(tmp_path / "a.ply")
    assert len(said) == (word is not None), said
    assert word is None or word in said[0]
    text = RUNNER.invoke(app, ["info", str(tmp_path / "a.ply")]).stdout
    assert ("activated twice" in text) == (word is not None)


def test_a_command_says_it_on_standard_error(tmp_path: Path) -> None:
    write_splat(random_splat(30, 3), tmp_path / "a.ply")
    out = RUNNER.invoke(app, ["convert", str(tmp_path / "a.ply"), str(tmp_path / "b.splat")])
    assert out.exit_code == 0
    assert out.stderr.count("note: ") == 1
    assert "degree 3 cut to 0" in out.stderr


def test_the_message_for_a_folder_names_what_is_in_it(tmp_path: Path) -> None:
    write_splat(random_splat(3, 0), tmp_path / "scene.ply")
    with pytest.raises(InputFileError, match=r"is a folder.*scene\.ply"):
        read_splat(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFileError, match="Give a file in it"):
        read_splat(tmp_path / "empty")

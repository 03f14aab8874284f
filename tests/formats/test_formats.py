"""Every splat format: round trip within its quantisation, orientation by rendering, hostile files."""

from __future__ import annotations

import importlib.util
import math
import tracemalloc
from functools import cache
from pathlib import Path

import pytest
import torch

from splat_files import CASES, Case, assert_same_splat, flipped, random_splat, tripod
from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.errors import ConfigError, ExportError, InputFileError, Vlm3dGsError
from vlm3d_gs.core.gaussians import Gaussians, with_sh_degree
from vlm3d_gs.formats import usd, usd_child
from vlm3d_gs.formats.convert import convert, format_of_file, read_splat, write_splat
from vlm3d_gs.formats.options import SplatOptions
from vlm3d_gs.formats.ply.splat import load_ply
from vlm3d_gs.formats.registry import SPLAT_SUFFIXES, format_of_suffix
from vlm3d_gs.render import render

HAS_USD = importlib.util.find_spec("pxr") is not None
EACH = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            marks=pytest.mark.skipif(
                case.suffix.startswith(".usd") and not HAS_USD, reason="usd-core is not installed"
            ),
        )
        for case in CASES
    ],
    ids=lambda case: case.name,
)
EACH_SAFE = pytest.mark.parametrize(
    "case",
    [case for case in CASES if not case.suffix.startswith(".usd")],
    ids=lambda case: case.name,
)
"""Formats whose damaged files are read in this process."""


@pytest.fixture(autouse=True)
def usd_is_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole files need no process of their own, which takes a second to start; test_usd.py has the others."""
    monkeypatch.setattr(usd, "_read_apart", usd_child.read_stage)


@cache
def tripod_from(azimuth: float, elevation: float, degree: int) -> torch.Tensor:
    camera = orbit(azimuth, elevation, 3.0, 45.0, 64, 64)
    return render(with_sh_degree(tripod(), degree), camera, backend="reference").color


def written(tmp_path: Path, case: Case, scene: Gaussians) -> Path:
    path = tmp_path / f"scene{case.suffix}"
    write_splat(scene, path, case.options)
    return path


def back(path: Path, _: Case) -> Gaussians:
    return read_splat(path)


@EACH
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_is_written_is_read_back(tmp_path: Path, case: Case, degree: int) -> None:
    scene = random_splat(300, degree)
    assert_same_splat(back(written(tmp_path, case, scene), case), scene, case)


@EACH
def test_one_gaussian_alone(tmp_path: Path, case: Case) -> None:
    scene = random_splat(1, 3)
    assert_same_splat(back(written(tmp_path, case, scene), case), scene, case)


@EACH
def test_a_scene_without_extent(tmp_path: Path, case: Case) -> None:
    """All Gaussians alike: nothing may be divided by the empty range."""
    one = random_splat(1, 1)
    got = back(written(tmp_path, case, one.select(torch.zeros(700, dtype=torch.long))), case)
    assert len(got) == 700
    assert_same_splat(got.select(torch.tensor([699])), one, case)


@EACH
def test_same_scene_same_bytes(tmp_path: Path, case: Case) -> None:
    scene = random_splat(1500, 2)
    first = written(tmp_path, case, scene).read_bytes()
    assert written(tmp_path, case, scene).read_bytes() == first


@EACH
def test_the_picture_is_the_same_before_and_after(tmp_path: Path, case: Case) -> None:
    """Axes, rotations and harmonics at once, seen from four sides and above."""
    scene = with_sh_degree(tripod(), min(1, case.most_degree))
    got = back(written(tmp_path, case, scene), case)
    for azimuth, elevation in [(0, 10), (90, 10), (180, 10), (270, 10), (40, 80)]:
        camera = orbit(azimuth, elevation, 3.0, 45.0, 64, 64)
        before = tripod_from(azimuth, elevation, scene.sh_degree)
        after = render(got, camera, backend="reference").color
        assert before.std() > 0.03
        psnr = -10 * math.log10(float((before - after).square().mean()) + 1e-12)
        assert psnr > 38, f"{psnr:.1f} dB from azimuth {azimuth}"


def test_the_picture_test_sees_a_forgotten_harmonic_and_a_mirrored_axis() -> None:
    scene = tripod()
    camera = orbit(0, 10, 3.0, 45.0, 64, 64)
    before = render(scene, camera, backend="reference").color
    red, green, _ = before[0, 32, 32].tolist()
    assert red > 2 * green  # the ball is red from +x ...
    behind = render(scene, orbit(180, 10, 3.0, 45.0, 64, 64), backend="reference").color
    assert behind[0, 32, 32, 0] < behind[0, 32, 32, 1]  # ... and from there only
    for broken in (
        Gaussians.from_parameters({**scene.parameters(), "sh": scene.sh * 0 + scene.sh[:, :1]}),
        with_sh_degree(with_sh_degree(scene, 0), 1),
        Gaussians.from_parameters(
            {**scene.parameters(), "means": scene.means * torch.tensor([1.0, -1.0, 1.0])}
        ),
    ):
        after = render(broken, camera, backend="reference").color
        assert -10 * math.log10(float((before - after).square().mean())) < 32


@EACH_SAFE
def test_a_truncated_file_is_refused_at_any_length(tmp_path: Path, case: Case) -> None:
    path = written(tmp_path, case, random_splat(40, 1))
    data = path.read_bytes()
    lengths = {*range(0, 80), *range(80, len(data), max(1, len(data) // 60)), len(data) - 1}
    for length in sorted(length for length in lengths if length < len(data)):
        path.write_bytes(data[:length])
        if case.suffix == ".splat" and length and length % 32 == 0:
            assert len(back(path, case)) == length // 32  # a shorter .splat is a whole one
        else:
            with pytest.raises(InputFileError):
                back(path, case)


@EACH_SAFE
def test_flipped_bits_end_in_a_splat_or_in_our_error(tmp_path: Path, case: Case) -> None:
    data = written(tmp_path, case, random_splat(60, 1)).read_bytes()
    path = tmp_path / f"broken{case.suffix}"
    for seed in range(60):
        path.write_bytes(data)
        flipped(path, seed)
        try:
            got = back(path, case)
        except Vlm3dGsError:
            continue
        assert all(value.isfinite().all() for value in got.parameters().values())


HUGE = 2**31


def _huge_ply(data: bytes) -> bytes:
    return data.replace(b"element vertex 40", b"element vertex %d" % HUGE)


def _huge_compressed(data: bytes) -> bytes:
    data = data.replace(b"element chunk 1\n", b"element chunk %d\n" % (HUGE // 256))
    return data.replace(b"element sh 40", b"element sh %d" % HUGE).replace(
        b"element vertex 40", b"element vertex %d" % HUGE
    )


def _huge_spz(data: bytes) -> bytes:
    import gzip

    if data[:4] == b"NGSP":
        return data[:8] + HUGE.to_bytes(4, "little") + data[12:]
    body = gzip.decompress(data)
    return gzip.compress(body[:8] + HUGE.to_bytes(4, "little") + body[12:])


def _huge_sog(data: bytes, tmp_path: Path) -> bytes:
    import zipfile

    (tmp_path / "old.zip").write_bytes(data)
    with (
        zipfile.ZipFile(tmp_path / "old.zip") as old,
        zipfile.ZipFile(tmp_path / "new.zip", "w") as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name == "meta.json":
                content = content.replace(b'"count": 40', b'"count": %d' % HUGE)
            new.writestr(name, content)
    return (tmp_path / "new.zip").read_bytes()


def _huge_glb(data: bytes) -> bytes:
    # As many digits, so that no length in the file changes.
    return data.replace(b'"count":40', b'"count":9e9').replace(
        b'"byteLength":480,', b'"byteLength":9e9,'
    )


@pytest.mark.parametrize("case", CASES[:-2], ids=lambda case: case.name)
def test_a_header_that_claims_two_thousand_million_costs_no_memory(
    tmp_path: Path, case: Case
) -> None:
    path = written(tmp_path, case, random_splat(40, 1))
    data = path.read_bytes()
    if case.suffix == ".splat":
        return  # it has no header
    if case.suffix == ".ply":
        made = _huge_ply(data)
    elif case.suffix == ".compressed.ply":
        made = _huge_compressed(data)
    elif case.suffix == ".spz":
        made = _huge_spz(data)
    elif case.suffix == ".sog":
        made = _huge_sog(data, tmp_path)
    else:
        made = _huge_glb(data)
    assert made != data
    path.write_bytes(made)
    tracemalloc.start()
    with pytest.raises(InputFileError):
        back(path, case)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**22


def test_a_file_is_known_by_how_it_begins_and_not_by_its_name(tmp_path: Path) -> None:
    scene = random_splat(20, 1)
    for case in CASES[:-2]:
        if case.suffix == ".splat":
            continue
        path = written(tmp_path, case, scene)
        renamed = path.rename(tmp_path / "what.ever")
        assert format_of_file(renamed) == format_of_suffix(f"a{case.suffix}")
        assert len(back(renamed, case)) == 20


@pytest.mark.parametrize("suffix", SPLAT_SUFFIXES)
def test_every_suffix_asks_for_a_format(suffix: str) -> None:
    assert suffix.lstrip(".").startswith(format_of_suffix(f"A.B{suffix.upper()}").name)


def test_an_unknown_suffix_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"\.compressed\.ply, \.splat"):
        write_splat(random_splat(2, 0), tmp_path / "a.ksplat")
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 and more")
    with pytest.raises(InputFileError, match=r"\.sog"):
        read_splat(tmp_path / "a.jpg")
    with pytest.raises(InputFileError, match="no file"):
        read_splat(tmp_path / "none.ply")


@pytest.mark.parametrize("suffix", [".ply", ".splat", ".spz", ".sog", ".glb"])
def test_scales_that_freeze_viewers_are_not_written(tmp_path: Path, suffix: str) -> None:
    scene = random_splat(5, 0)
    scene.log_scales[2, 1] = 25.0
    with pytest.raises(ExportError, match="activated twice"):
        write_splat(scene, tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SplatOptions(spz_version=5), "2, 3 or 4"),  # type: ignore[arg-type]
        (SplatOptions(frame="world"), "rub or rdf or luf or ldb"),
        (SplatOptions(sh_degree=4), "0, 1, 2 or 3"),
    ],
)
def test_unknown_options_name_the_known(
    tmp_path: Path, options: SplatOptions, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_splat(random_splat(3, 1), tmp_path / "a.spz", options)
    assert list(tmp_path.iterdir()) == []


def test_converting_keeps_an_existing_file_unless_overwrite_is_set(tmp_path: Path) -> None:
    write_splat(random_splat(30, 1), tmp_path / "a.ply")
    (tmp_path / "b.glb").write_text("precious")
    with pytest.raises(ExportError, match="--overwrite"):
        convert(tmp_path / "a.ply", tmp_path / "b.glb")
    assert (tmp_path / "b.glb").read_text() == "precious"
    convert(tmp_path / "a.ply", tmp_path / "b.glb", SplatOptions(sh_degree=0), overwrite=True)
    assert read_splat(tmp_path / "b.glb").sh_degree == 0


def test_broken_gaussians_are_dropped_on_request(tmp_path: Path) -> None:
    write_splat(random_splat(30, 0), tmp_path / "a.splat")
    data = bytearray((tmp_path / "a.splat").read_bytes())
    data[64:68] = b"\x00\x00\xc0\x7f"  # NaN as the third x
    (tmp_path / "a.splat").write_bytes(data)
    with pytest.raises(InputFileError, match="in 1 of 30 Gaussians"):
        convert(tmp_path / "a.splat", tmp_path / "b.ply")
    assert len(convert(tmp_path / "a.splat", tmp_path / "b.ply", drop_broken=True)) == 29


def test_the_caller_may_know_the_axes_better(tmp_path: Path) -> None:
    scene = random_splat(10, 1)
    write_splat(scene, tmp_path / "a.ply", SplatOptions(frame="world"))
    assert torch.equal(read_splat(tmp_path / "a.ply").means, scene.means)  # our comment says it
    x, y, z = scene.means.T
    as_rub = read_splat(tmp_path / "a.ply", frame="rub").means
    torch.testing.assert_close(as_rub, torch.stack([z, x, y], dim=1))
    with pytest.raises(ConfigError, match="rdf, rub, luf, ldb, world"):
        read_splat(tmp_path / "a.ply", frame="lub")  # type: ignore[arg-type]


def test_between_files_of_the_same_axes_nothing_is_rounded(tmp_path: Path) -> None:
    write_splat(random_splat(50, 3), tmp_path / "a.ply")
    convert(tmp_path / "a.ply", tmp_path / "b.ply")
    first, second = load_ply(tmp_path / "a.ply"), load_ply(tmp_path / "b.ply")
    for name in ("means", "log_scales", "opacity_logits", "sh"):
        assert (first.columns()[name] == second.columns()[name]).all()
    assert abs(first.quats - second.quats).max() < 1e-6


@pytest.mark.parametrize(
    ("suffix", "least_db"),
    [(".ply", 100), (".glb", 100), (".compressed.ply", 48), (".sog", 55), (".spz", 39)],
)
def test_the_pictures_of_gsplat_survive(
    tmp_path: Path,
    stored_case: tuple[Gaussians, Cameras, torch.Tensor],
    suffix: str,
    least_db: float,
) -> None:
    """Scenes whose pictures gsplat's CUDA kernels made, written, read back and drawn by us."""
    scene, camera, picture = stored_case
    write_splat(scene, tmp_path / f"a{suffix}")
    drawn = render(read_splat(tmp_path / f"a{suffix}"), camera, backend="reference").color[0]
    assert -10 * math.log10(float((drawn - picture[..., :3]).square().mean())) > least_db


@pytest.mark.parametrize(
    "suffix", [suffix for suffix in SPLAT_SUFFIXES if not suffix.startswith(".usd")]
)
def test_a_zero_quaternion_is_no_rotation_in_files_too(suffix: str, tmp_path: Path) -> None:
    """A disc with a zero quaternion lies in the same plane as one with the identity, whatever the file's axes."""
    names = ("means", "log_scales", "quats", "opacity_logits", "sh")
    values = (
        torch.zeros(2, 3),
        torch.tensor([[-1.0, -1.0, -4.0]]).repeat(2, 1),
        torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]),
        torch.full((2,), 2.0),
        torch.zeros(2, 1, 3),
    )
    path = tmp_path / f"disc{suffix}"
    write_splat(Gaussians(**dict(zip(names, values, strict=True))), path)
    zero, identity = read_splat(path).covariances
    torch.testing.assert_close(zero, identity)
    assert float(identity[2, 2]) < 0.1 * float(identity[0, 0])

"""The page: one offline file that a real browser draws as our renderer does, and that trusts no text."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from browser import Page, chromium, picture, psnr
from scenes import splats_for
from vlm3d_gs.cli import app
from vlm3d_gs.config import Config, TrainConfig
from vlm3d_gs.core.cameras import Cameras, look_at, orbit
from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.render import render
from vlm3d_gs.runs.log import RunLog
from vlm3d_gs.runs.record import RunRecord, read_record
from vlm3d_gs.show.framing import bounds
from vlm3d_gs.show.page import pack, write_page

HOSTILE = """</script><script>window.hacked = 1</script><img src=x onerror="hacked=2"> {{style}} & "q' <!-- \u2028"""
SIDE = 160


def cloud(count: int, degree: int, seed: int = 5) -> Gaussians:
    """No two Gaussians are alike: long and flat, faint and solid, colours that depend on the view."""
    random = torch.Generator().manual_seed(seed)
    spread = torch.tensor([0.5, 0.3, 0.4])
    sh = torch.randn(count, (degree + 1) ** 2, 3, generator=random) * 0.35
    sh[:, 0] = torch.randn(count, 3, generator=random) * 1.2
    return Gaussians(
        means=torch.randn(count, 3, generator=random) * spread,
        log_scales=torch.randn(count, 3, generator=random) * 0.7 - 2.9,
        quats=torch.randn(count, 4, generator=random) * 3.0,
        opacity_logits=torch.randn(count, generator=random) * 2.0,
        sh=sh,
    )


def run_folder(folder: Path, prompt: str, gaussians: Gaussians) -> Path:
    """A run's folder as a run writes it."""
    config = Config(prompt=prompt, out=folder, train=TrainConfig(steps=40))
    folder.mkdir()
    with RunLog(folder, config, quiet=True) as log:
        for step in range(1, 41):
            rewards = {"critic/semantic": step / 8 - 2.0} if step % 4 == 1 else {}
            odd = float("nan") if step == 9 else 900.0 / step
            log.scalars(step, {"prior/loss": odd, **rewards, "gaussians": 100 + step})
        log.summary({"prompt": prompt, "steps": 40, "finished": True, "seconds": 12.3})
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(
        json.dumps({**summary, "commit": "0123456789abcdef-dirty"})
    )
    write_splat(gaussians, folder / "scene.ply")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        page.size(900, 700)
        yield page


def opened(page: Page, path: Path) -> Page:
    page.errors.clear()
    page.requests.clear()
    page.open(path.as_uri())
    page.run("vlm3d.ready")
    return page


def drawn(page: Page, camera: Cameras, background: tuple[float, float, float]) -> torch.Tensor:
    entry = {"viewmat": camera.viewmats[0].tolist(), "K": camera.Ks[0].tolist()}
    page.run(f"vlm3d.setSize({camera.width}, {camera.height})")
    page.run(f"vlm3d.setBackground({list(background)})")
    page.run(f"vlm3d.setCamera({json.dumps(entry)})")
    return picture(page.run("vlm3d.snapshot()"))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_browser_draws_what_our_renderer_draws(
    browser: Page, tmp_path: Path, degree: int
) -> None:
    scene = cloud(700, degree)
    write_page(scene, tmp_path / "page.html", name="cloud")
    page = opened(browser, tmp_path / "page.html")
    eyes = torch.tensor([[2.0, 1.4, 1.1], [-0.9, 0.5, -0.3]])  # the second is inside the cloud
    views = look_at(eyes, torch.tensor([0.1, -0.2, 0.0]))
    K = torch.tensor([[150.0, 0.0, 70.0], [0.0, 170.0, 88.0], [0.0, 0.0, 1.0]])
    seen = []
    for viewmat in views:
        none = torch.zeros(1)
        camera = Cameras(viewmat[None], K[None], SIDE, SIDE - 40, none, none, none)
        ours = render(scene, camera, background=(0.2, 0.5, 0.9), backend="cpu").color[0]
        theirs = drawn(page, camera, (0.2, 0.5, 0.9))
        assert theirs.shape == ours.shape
        assert psnr(theirs, ours) >= 35.0
        seen.append((ours, theirs))
    # The measure distinguishes pictures: another view of the same scene is far below the bound.
    assert psnr(seen[0][0], seen[1][1]) < 25.0
    assert page.errors == []


def test_orbit_cameras_follow_our_conventions(browser: Page, tmp_path: Path) -> None:
    scene = splats_for("a red cube behind a cyan sphere")
    write_page(scene, tmp_path / "page.html", name="scene")
    page = opened(browser, tmp_path / "page.html")
    page.run(f"vlm3d.setSize({SIDE}, {SIDE}); vlm3d.setBackground([0, 0, 0])")
    for azimuth, elevation in ((0.0, 15.0), (75.0, -40.0), (200.0, 60.0)):
        entry = {"azimuth_deg": azimuth, "elevation_deg": elevation, "distance": 3.0, "fov_deg": 35}
        entry["target"] = [0.0, 0.0, 0.0]
        page.run(f"vlm3d.setCamera({json.dumps(entry)})")
        theirs = picture(page.run("vlm3d.snapshot()"))
        camera = orbit(azimuth, elevation, 3.0, 35.0, SIDE, SIDE)
        ours = render(scene, camera, background=(0.0, 0.0, 0.0), backend="cpu").color[0]
        assert psnr(theirs, ours) >= 35.0


def test_a_page_makes_no_request_and_shows_hostile_text_as_text(
    browser: Page, tmp_path: Path
) -> None:
    folder = run_folder(tmp_path / "run", HOSTILE, splats_for("a red cube"))
    (folder / "summary.json").write_text(json.dumps({"preset": HOSTILE, "steps": 40}))
    result = CliRunner().invoke(app, ["html", str(folder), "-o", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    page = opened(browser, tmp_path / "page.html")
    assert page.run("window.hacked") is None
    assert page.run("document.querySelector('h1').textContent") == HOSTILE
    assert page.run("document.title.trim()") == HOSTILE.strip()
    assert HOSTILE in page.run("[...document.querySelectorAll('dd')].map(one => one.textContent)")
    assert page.run("document.querySelectorAll('img').length") == 0
    for button in ("#about", "#turn", "[data-mode=points]", ".swatch:nth-child(3)", "#turn"):
        page.run(f"document.querySelector('{button}').click()")
        time.sleep(0.2)
    assert page.run("document.querySelectorAll('figure').length") == 3
    assert page.errors == []
    own = (tmp_path / "page.html").as_uri()
    outside = [
        url for url in page.requests if url != own and not url.startswith(("blob:", "data:"))
    ]
    assert outside == []
    # The policy holds even where somebody manages to add a script: it neither runs nor sends anything.
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 3'}));"
        "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'})); 1"
    )
    assert page.run("window.hacked") is None
    assert page.run("fetch('http://127.0.0.1:9/').then(() => 'left', () => 'held')") == "held"
    assert any("Content Security Policy" in error for error in page.errors)


def test_fingers_mouse_and_buttons_change_the_picture(browser: Page, tmp_path: Path) -> None:
    write_page(splats_for("a red cube behind a cyan sphere"), tmp_path / "page.html", name="scene")
    browser.size(390, 780, scale=1, mobile=True)
    try:
        page = opened(browser, tmp_path / "page.html")
        nav = page.run(
            "(b => [b.left, b.right])(document.querySelector('nav').getBoundingClientRect())"
        )
        about = page.run("document.getElementById('about').getBoundingClientRect().right")
        assert nav[0] >= 0
        assert max(nav[1], about) <= 390
        first = picture(page.run("vlm3d.snapshot()"))
        for kind, x in (("mousePressed", 150), ("mouseMoved", 260), ("mouseReleased", 260)):
            page.send("Input.dispatchMouseEvent", type=kind, x=x, y=300, button="left", buttons=1)
        turned = picture(page.run("vlm3d.snapshot()"))
        assert psnr(first, turned) < 25.0
        page.send("Input.dispatchMouseEvent", type="mouseWheel", x=200, y=300, deltaX=0, deltaY=400)
        farther = picture(page.run("vlm3d.snapshot()"))
        grey = farther[2, 2]
        covered = [
            float(((shot - grey).abs() > 0.1).any(-1).float().mean()) for shot in (turned, farther)
        ]
        assert covered[1] < 0.6 * covered[0]
        page.run("document.querySelector('[data-mode=points]').click()")
        assert psnr(farther, picture(page.run("vlm3d.snapshot()"))) < 30.0
    finally:
        browser.size(900, 700)


def test_the_bytes_hold_the_scene_to_the_documented_precision() -> None:
    scene = cloud(50, 2)
    head, blob = pack(scene)
    assert len(blob) == 50 * (28 + 6 * 9)
    assert (head["count"], head["coefficients"]) == (50, 9)
    ends = np.cumsum([600, 300, 400, 100, 50 * 54])
    means, logs, quats, opacities, sh = np.split(np.frombuffer(blob, np.uint8), ends[:-1])
    np.testing.assert_array_equal(means.view("<f4").reshape(-1, 3), scene.means.numpy())
    low, high = head["log_scale_range"]
    back = low + logs.view("<u2").reshape(-1, 3) * (high - low) / 65535
    np.testing.assert_allclose(back, scene.log_scales.numpy(), atol=(high - low) / 65535)
    unit = torch.nn.functional.normalize(scene.quats, dim=-1).numpy()
    np.testing.assert_allclose(quats.view("<i2").reshape(-1, 4) / 32767, unit, atol=2e-5)
    np.testing.assert_allclose(opacities.view("<u2") / 65535, scene.opacities.numpy(), atol=1e-5)
    np.testing.assert_allclose(
        sh.view("<f2").reshape(50, 9, 3).astype(np.float32), scene.sh.numpy(), rtol=1e-3, atol=1e-6
    )


def test_the_file_is_whole_and_the_same_each_time(tmp_path: Path) -> None:
    scene = splats_for("a red cube")
    for name in ("a.html", "b.html"):
        write_page(scene, tmp_path / name, name="a red cube")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]
    assert "<title>a red cube</title>" in text
    # No address to load from; the SVG namespace is a name.
    assert set(re.findall(r"https?://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}
    assert text.count("</script>") == 3
    (data,) = re.findall(r'id="splats">([^<]*)<', text)
    assert base64.b64decode(data, validate=True) == pack(scene)[1]


def test_equal_scales_and_the_zero_quaternion_are_packed() -> None:
    scene = cloud(3, 0)
    same = Gaussians(
        scene.means,
        torch.full((3, 3), -2.0),
        torch.zeros(3, 4),
        scene.opacity_logits,
        scene.sh * 1e9,
    )
    head, blob = pack(same)
    low, high = head["log_scale_range"]
    assert low == -2.0 < high
    assert np.frombuffer(blob[36:54], "<u2").tolist() == [0] * 9
    assert np.frombuffer(blob[54:78], "<i2").reshape(3, 4).tolist() == [[32767, 0, 0, 0]] * 3
    assert np.isfinite(np.frombuffer(blob[84:], "<f2")).all()


def test_a_scene_that_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    scene = cloud(3, 0)
    with pytest.raises(ExportError, match="no Gaussians"):
        write_page(scene.select(torch.zeros(3, dtype=torch.bool)), tmp_path / "a.html", name="a")
    broken = {**scene.parameters(), "means": scene.means * float("nan")}
    with pytest.raises(ExportError, match="9 values of means are not finite"):
        write_page(Gaussians.from_parameters(broken), tmp_path / "a.html", name="a")
    with pytest.raises(ExportError, match="does not exist"):
        write_page(scene, tmp_path / "nowhere" / "a.html", name="a")
    assert list(tmp_path.iterdir()) == []


def test_the_camera_of_a_far_scene_looks_at_it(tmp_path: Path) -> None:
    scene = cloud(400, 0)
    moved = Gaussians.from_parameters({**scene.parameters(), "means": scene.means * 30 + 100})
    center, radius = bounds(moved)
    write_page(moved, tmp_path / "a.html", name="far")
    (story,) = re.findall(r'id="story">(.*?)</script>', (tmp_path / "a.html").read_text())
    camera = json.loads(story)["camera"]
    assert camera["target"] == pytest.approx(center.tolist())
    assert 95 < camera["target"][0] < 105
    assert camera["distance"] == pytest.approx(3.1 * radius)
    assert 20 < radius < 60


def test_the_page_of_a_run_tells_its_story(tmp_path: Path) -> None:
    record: RunRecord = read_record(run_folder(tmp_path / "run", "a red cube", cloud(9, 0)))
    write_page(cloud(9, 0), tmp_path / "a.html", name="run", record=record)
    (story,) = re.findall(r'id="story">(.*?)</script>', (tmp_path / "a.html").read_text())
    content = json.loads(story)
    facts = dict(map(tuple, content["facts"]))
    assert facts["Steps"] == "40 of 40"
    assert facts["Time"] == "12 s"
    assert facts["Seed"] == "0"
    assert facts["Commit"] == "0123456789ab-dirty"
    titles = [chart["title"] for chart in content["charts"]]
    assert titles == ["Reward, log-odds of Yes", "Prior loss", "Gaussians"]
    loss = content["charts"][1]["series"][0]
    assert loss["values"][8] is None
    assert loss["values"][19] == pytest.approx(45.0)

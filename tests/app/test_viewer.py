"""viewer: who may connect, what is shown, and that pause and stop reach the loop; also through a real browser."""

from __future__ import annotations

import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from browser import chromium
from scenes import splats_for
from vlm3d_gs.app.viewer import LiveView
from vlm3d_gs.cli import app
from vlm3d_gs.config import (
    CameraConfig,
    Config,
    DensifyConfig,
    OptimConfig,
    SceneConfig,
    TrainConfig,
)
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.core.rotations import quat_to_rotmat
from vlm3d_gs.core.seeding import generators
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views
from vlm3d_gs.optimize.optimizer import SceneOptimizer
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.optimize.trainer import train
from vlm3d_gs.runs.folder import RunFolder
from vlm3d_gs.runs.log import RunLog
from vlm3d_gs.runs.record import RunRecord
from vlm3d_gs.show.framing import BACKGROUND

LONG = 1_000_000
"""Steps that no test lives to see the end of."""
SOON_S = 60.0


class Grey:
    """Pulls every picture towards grey: the cheapest guidance."""

    name = "prior"

    def is_due(self, progress: Progress) -> bool:
        return True

    def azimuth_range_deg(self, progress: Progress) -> None:
        return None

    def state_tensors(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        pass

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        loss = (views.color - 0.5).square().sum()
        return GuidanceOutput(2.0 * (views.color - 0.5), {"loss": float(loss)})


def config(out: Path, steps: int) -> Config:
    return Config(
        prompt="a red cube",
        out=out,
        scene=SceneConfig(n_init=50, max_gaussians=60),
        camera=CameraConfig(resolution_px=constant(16)),
        train=TrainConfig(steps=steps, checkpoint_every=0.0, preview_every=0.0),
        densify=DensifyConfig(enabled=False),
    )


def a_state() -> TrainState:
    random = torch.Generator().manual_seed(1)
    first = ball(50, 0.5, random, opacity=0.9, sh_degree=0)
    streams = generators(0, ("cameras", "backgrounds", "densify", "noise"))
    return TrainState(SceneOptimizer(first, OptimConfig()), streams)


class Running:
    """A training in a thread, watched by a view."""

    def __init__(self, view: LiveView, out: Path, steps: int = LONG) -> None:
        self.state, self.finished = a_state(), list[bool]()
        out.mkdir(exist_ok=True)
        settings = config(out, steps)

        def work() -> None:
            with RunLog(out, settings, quiet=True) as log:
                self.finished.append(
                    train(self.state, settings, [Grey()], log, observe=view.observe)
                )

        self.thread = threading.Thread(target=work)
        self.thread.start()

    def reaches(self, step: int) -> None:
        end = time.monotonic() + SOON_S
        while self.state.step < step:
            assert time.monotonic() < end
            assert self.thread.is_alive()
            time.sleep(0.02)


@pytest.fixture
def view() -> Iterator[LiveView]:
    with LiveView("a red cube", steps=LONG) as made:
        yield made
        made.end()


def port_of(view: LiveView) -> int:
    port = urlsplit(view.address).port
    assert port is not None
    return port


def listening(port: int) -> set[str]:
    """Local addresses that listen at a port, as the kernel writes them."""
    rows = []
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        rows += path.read_text().splitlines()[1:] if path.is_file() else []
    if not rows:
        pytest.skip("needs /proc/net/tcp to see who listens where")
    found = [row.split() for row in rows]
    return {
        row[1].split(":")[0] for row in found if row[3] == "0A" and row[1].endswith(f":{port:04X}")
    }


def test_only_this_machine_can_connect_unless_a_host_is_given(view: LiveView) -> None:
    assert view.address.startswith("http://127.0.0.1:")
    assert listening(port_of(view)) == {"0100007F"}
    with LiveView("a red cube", host="0.0.0.0") as open_to_all:
        assert listening(port_of(open_to_all)) == {"00000000"}


def test_a_taken_port_and_a_foreign_host_are_told(view: LiveView) -> None:
    taken = port_of(view)
    with pytest.raises(ConfigError, match=rf"port {taken}.*another --port"):
        LiveView("a red cube", port=taken)
    with pytest.raises(ConfigError, match="address of this machine"):
        LiveView("a red cube", host="203.0.113.7")
    with pytest.raises(ConfigError, match="1 to 65535, got 70000"):
        LiveView("a red cube", port=70000)


def test_a_given_port_is_taken(view: LiveView) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with LiveView("a red cube", port=free) as there:
        assert port_of(there) == free


def test_nothing_is_printed_but_what_we_say(capfd: pytest.CaptureFixture[str]) -> None:
    with LiveView("a red cube"):
        pass
    assert capfd.readouterr().out == ""


def test_pause_holds_the_run_and_stop_ends_it_after_a_whole_step(
    view: LiveView, tmp_path: Path
) -> None:
    running = Running(view, tmp_path / "run")
    running.reaches(3)
    view.hold(True)
    time.sleep(0.5)
    held = running.state.step
    time.sleep(0.5)
    assert running.state.step == held
    view.hold(False)
    running.reaches(held + 3)
    view.hold(True)  # stop works from the pause as well
    time.sleep(0.2)
    view.end()
    running.thread.join(SOON_S)
    assert running.finished == [False]
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == running.state.step < LONG


def test_ctrl_c_ends_a_paused_run(view: LiveView) -> None:
    view.hold(True)
    state = a_state()
    state.step = 7
    asked = threading.Event()
    threading.Timer(0.3, asked.set).start()
    began = time.monotonic()
    assert view.observe(state, {}, asked.is_set) is False
    assert 0.25 < time.monotonic() - began < SOON_S


def test_a_run_that_nobody_watches_is_not_drawn(
    view: LiveView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "show_scene", lambda scene: pytest.fail("drawn for nobody"))
    state = a_state()
    state.step = 2
    assert view.observe(state, {"prior/loss": 1.0}, lambda: False) is False


def test_frusta_stand_where_the_cameras_stand_and_look_along(view: LiveView) -> None:
    cameras: Cameras = orbit([0.0, 120.0, 240.0], 20.0, 3.0, 40.0, 64, 64)
    view.show_cameras(orbit([5.0, 10.0, 15.0, 20.0], 0.0, 2.0, 50.0, 64, 64))
    view.show_cameras(cameras)
    assert len(view._frusta) == 3
    for frustum, position in zip(view._frusta, cameras.positions, strict=True):
        np.testing.assert_allclose(frustum.position, position.numpy(), atol=1e-5)
        turn = quat_to_rotmat(torch.tensor(np.asarray(frustum.wxyz), dtype=torch.float32))
        torch.testing.assert_close(turn[:, 2], -position / 3.0, atol=1e-5, rtol=0)
        assert frustum.fov == pytest.approx(math.radians(40.0), rel=1e-5)


def test_curves_of_different_steps_share_an_axis_with_gaps(view: LiveView) -> None:
    rows = [
        {"step": 1, "critic/semantic": 1.0, "gaussians": 5},
        {"step": 2, "critic/relation": -2.0},
    ]
    view.show_record(RunRecord("", None, {}, {}, tuple(rows)))
    steps, semantic, relation = view._plots["Reward, log-odds of Yes"].data
    assert steps.tolist() == [1.0, 2.0]
    np.testing.assert_array_equal(semantic, [1.0, math.nan])
    np.testing.assert_array_equal(relation, [math.nan, -2.0])
    assert set(view._plots) == {"Reward, log-odds of Yes", "Gaussians"}


def test_the_command_line_hands_view_options_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vlm3d_gs.app import viewer

    seen = {}

    def generate_in_view(config: Config, **flags: object) -> SimpleNamespace:
        seen.update(flags)
        return SimpleNamespace(message="", signal=None)

    monkeypatch.setattr(viewer, "generate_in_view", generate_in_view)
    arguments = ["generate", "a red cube", "--view", "--port", "8123", "--overwrite", "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    del seen["announce"]
    flags = {"overwrite": True, "resume": False, "quiet": True}
    assert seen == {"host": None, "port": 8123, **flags}
    alone = CliRunner().invoke(app, ["generate", "a red cube", "--port", "8123"])
    assert (alone.exit_code, "belong to --view" in alone.stderr) == (2, True)
    wrong = CliRunner().invoke(app, ["view", str(tmp_path / "nothing.ply")])
    assert wrong.exit_code == 2
    assert "There is no file or run folder" in wrong.stderr


def test_view_serves_a_splat_until_ctrl_c(tmp_path: Path) -> None:
    write_splat(splats_for("a red cube"), tmp_path / "scene.ply")
    command = [sys.executable, "-m", "vlm3d_gs", "view", str(tmp_path / "scene.ply")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.partition(" at ")[2].split()[0]
        opener = build_opener(ProxyHandler({}))
        with opener.open(address, timeout=SOON_S) as answer:
            assert b"<html" in answer.read()[:2000].lower()
        process.send_signal(signal.SIGINT)
        assert process.wait(SOON_S) == 0


def test_a_browser_sees_the_run_and_its_buttons_work(tmp_path: Path) -> None:
    def state_of(page) -> str:
        return page.run(
            "[...document.querySelectorAll('textarea')].map(one => one.value)"
            ".find(value => / step /.test(value)) || ''"
        )

    def click(page, label: str) -> None:
        find = (
            f"[...document.querySelectorAll('button')].find(one => one.textContent === '{label}')"
        )
        page.wait_for(find)
        page.run(f"{find}.click()")

    with LiveView("<b>a</b> {red} cube", steps=LONG) as view, chromium() as page:
        running = Running(view, tmp_path / "run")
        try:
            page.size(900, 700)
            page.open(view.address)
            page.wait_for("document.body.innerText.includes('Prior loss')")
            prompt = page.run("document.querySelector('textarea').value")
            assert prompt == "<b>a</b> {red} cube"
            click(page, "Pause")
            page.wait_for(
                "[...document.querySelectorAll('textarea')].some(one => one.value.startsWith('paused'))"
            )
            held = running.state.step
            assert state_of(page) == f"paused, step {held} of {LONG}"
            end = time.monotonic() + SOON_S
            grey = torch.tensor(BACKGROUND)
            while True:  # the software renderer needs a while
                middle = page.screenshot()[250:450, 350:550]
                drawn = float(((middle - grey).abs() > 0.05).any(-1).float().mean())
                if drawn > 0.2 or time.monotonic() > end:
                    break
                time.sleep(0.5)
            assert drawn > 0.2
            assert running.state.step == held
            click(page, "Go on")
            running.reaches(held + 2)
            click(page, "Stop and export")
            running.thread.join(SOON_S)
            assert running.finished == [False]
            # viser's own client warns of its splat geometry's bounds; nothing else may be wrong.
            assert [error for error in page.errors if "computeBoundingSphere" not in error] == []
            outside = ("blob:", "data:", view.address, view.address.replace("http", "ws"))
            assert [url for url in page.requests if not url.startswith(outside)] == []
        finally:
            view.end()
            running.thread.join(SOON_S)


def test_an_observer_may_end_a_run_early_and_is_shown_each_step(tmp_path: Path) -> None:
    state, seen = a_state(), []

    def observe(state, scalars, stop_requested) -> bool:
        assert not stop_requested()
        seen.append((state.step, scalars["prior/loss"], state.cameras.width))
        return state.step == 4

    settings = config(tmp_path, 9)
    settings = replace(settings, train=replace(settings.train, checkpoint_every=0.0))
    kept = RunFolder(tmp_path, tmp_path)
    with RunLog(tmp_path, settings, quiet=True) as log:
        assert train(state, settings, [Grey()], log, folder=kept, observe=observe) is False
    assert [row[0] for row in seen] == [1, 2, 3, 4]
    assert {row[2] for row in seen} == {16}
    assert kept.checkpoint.is_file()  # as after Ctrl-C, so that --resume goes on

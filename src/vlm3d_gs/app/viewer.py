"""The live view: a page served by viser that shows a splat, or a run in progress.

Listens on this machine only, unless another host is chosen, and lets in only who has the page's address
(`app/viewer_server.py`). Colours are those of harmonic degree 0, as viser draws no others. The trainer knows nothing of
this file: to the trainer it is an observer.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import viser
from torch import Tensor

from vlm3d_gs.app.viewer_server import LOOPBACK, Door, start_server, stop_server
from vlm3d_gs.config import Config
from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import tile_grid, to_uint8
from vlm3d_gs.core.notices import notice
from vlm3d_gs.core.rotations import rotmat_to_quat
from vlm3d_gs.formats.convert import read_as
from vlm3d_gs.formats.options import ReadOptions
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.optimize.targets import Target
from vlm3d_gs.pipeline import GenerateResult, generate
from vlm3d_gs.render import render
from vlm3d_gs.runs.interrupt import stop_requests
from vlm3d_gs.runs.record import RunRecord, charts, find_splat
from vlm3d_gs.show.framing import BACKGROUND, DISTANCE, FOV_DEG, bounds

REFRESH_S = 1.0
"""Shortest time between two updates of a running job."""
MOST_SHARE = 0.1
"""Largest fraction of a run's time that updates may take; large scenes are updated less often."""
POLL_S = 0.05
"""Time between two looks at a condition that is waited for."""
MOST_FRUSTA = 16
START_AZIMUTH_DEG, START_ELEVATION_DEG = 25.0, 20.0
RUN_DISTANCE = 1.7
"""Visitors of a run start this many times farther away than the cameras of products, outside the training cameras."""
FRUSTUM_COLOUR = (84, 96, 108)
LINE_COLOURS = ("#3b82c4", "#d9772b", "#2f9e6d", "#a65fc1")


def generate_in_view(
    config: Config,
    *,
    host: str | None = None,
    port: int | None = None,
    announce: Callable[[str], None],
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> GenerateResult:
    """Generate as `pipeline.generate` does, and serve a page to watch, pause and stop the run until it ends.

    Args:
        config: the run.
        host: address to listen at; None is this machine only.
        port: None takes a free one.
        announce: called with the page's address.
        overwrite: as in `pipeline.generate`.
        resume: as in `pipeline.generate`.
        quiet: as in `pipeline.generate`.

    Raises:
        ConfigError: host and port cannot be listened at, or as in `pipeline.generate`.
    """
    with LiveView(config.prompt, host=host, port=port, steps=config.train.steps) as view:
        announce(f"live view: {view.address}")
        return generate(
            config, overwrite=overwrite, resume=resume, quiet=quiet, observe=view.observe
        )


def show(
    source: Path,
    *,
    host: str | None = None,
    port: int | None = None,
    reading: ReadOptions | None = None,
    announce: Callable[[str], None],
) -> None:
    """Serve a page with a splat until Ctrl-C.

    Args:
        source: a splat file, or a run's folder, which adds its prompt and curves.
        host: address to listen at; None is this machine only.
        port: None takes a free one.
        reading: how to read the splat; None for the defaults.
        announce: called with the page's address.

    Raises:
        InputFileError: there is no readable splat.
        ConfigError: host and port cannot be listened at.
    """
    path, record = find_splat(source)
    gaussians = read_as(path, reading)
    if gaussians.antialiased:
        notice(f"{path}: made for the antialiased (mip) filter, which this page draws without")

    with LiveView(record.prompt if record else path.name, host=host, port=port) as view:
        view.look_at(gaussians)
        view.show_scene(gaussians)
        if record is not None:
            view.show_record(record)
        announce(f"showing {path} at {view.address} (Ctrl-C ends)")

        with stop_requests() as stop_requested:
            while not stop_requested():
                time.sleep(POLL_S)


class LiveView:
    """One served page; a context manager.

    Args:
        prompt: displayed as text.
        host: address to listen at; None is this machine only.
        port: None takes a free one.
        steps: length of the run to observe; None for a finished splat, which has no buttons to pause and stop.

    Raises:
        ConfigError: host and port cannot be listened at.
    """

    def __init__(
        self,
        prompt: str,
        *,
        host: str | None = None,
        port: int | None = None,
        steps: int | None = None,
    ) -> None:
        self._door = Door(host or LOOPBACK)
        self._server = start_server(self._door, port or 0)
        self._steps, self._rows = steps, list[dict[str, Any]]()
        self._paused, self._stopped = threading.Event(), threading.Event()
        self._frusta: list[Any] = []
        self._target: Any = None
        self._plots: dict[str, Any] = {}
        self._due_s = 0.0

        scene, gui = self._server.scene, self._server.gui
        scene.set_up_direction("+z")
        gui.configure_theme(show_logo=False, show_share_button=False)
        # As text, never as markdown: viser's markdown is a language with expressions.
        self._prompt = gui.add_text("Prompt", prompt, multiline=True, disabled=True)
        self._status = gui.add_text("State", "ready", multiline=True, disabled=True)
        self._numbers = gui.add_text("Numbers", "", multiline=True, disabled=True, visible=False)

        if steps is not None:
            self._status.value = "loading models"
            self._add_run_controls()
        self._add_backgrounds()

    @property
    def address(self) -> str:
        """URL of the page, with the token that it takes to connect."""
        return self._door.address(self._server.get_port())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stop_server(self._server)

    def observe(
        self, state: TrainState, scalars: Mapping[str, float], stop_requested: Callable[[], bool]
    ) -> bool:
        """Show the run from time to time, hold it while paused, and return whether to stop it.

        A `trainer.Observer`.
        """
        self._rows.append({"step": state.step, **scalars})
        if state.step == 1:
            self.look_at(state.optimizer.gaussians)

        now = time.monotonic()
        if self._paused.is_set() or (now >= self._due_s and self._server.get_clients()):
            self._refresh(state, now)

        while self._paused.is_set() and not (self._stopped.is_set() or stop_requested()):
            time.sleep(POLL_S)

        if self._stopped.is_set() or state.step == self._steps:
            self._status.value = f"exporting after step {state.step} of {self._steps}"
        return self._stopped.is_set()

    def begin(self, prompt: str, steps: int) -> None:
        """Get ready for another run on the same page."""
        self._steps, self._prompt.value = steps, prompt
        self._rows.clear()
        self._paused.clear()
        self._stopped.clear()
        self._due_s = 0.0
        self._status.value = "loading models"
        self._pause.label = "Pause"
        self._pause.disabled = self._stop.disabled = False

    def end_run(self) -> None:
        """Leave the page as that of a finished scene, without cameras and targets."""
        self._steps = None
        self._pause.disabled = self._stop.disabled = True
        for frustum in self._frusta:
            frustum.remove()
        self._frusta.clear()
        if self._target is not None:
            # Hidden, not removed: a picture that is still on its way would find its place gone.
            self._target.visible = False

    def hold(self, paused: bool) -> None:
        """Pause the observed run after its current step, or let it continue."""
        self._due_s = 0.0
        if paused:
            self._paused.set()
        else:
            self._paused.clear()

    def end(self) -> None:
        """Stop the observed run after its current step."""
        self._stopped.set()

    def show_scene(self, gaussians: Gaussians) -> None:
        """Display these Gaussians in place of the previous ones."""
        scene = gaussians.detach().to("cpu")
        self._server.scene.add_gaussian_splats(
            "/splats",
            centers=_array(scene.means),
            covariances=_array(scene.covariances),
            rgbs=_array(scene.colors.clamp(max=1.0)),
            opacities=_array(scene.opacities[:, None]),
        )

    def look_at(self, gaussians: Gaussians) -> None:
        """Set where new visitors start: a little beside the front; for a run, outside its cameras."""
        center, radius = bounds(gaussians, own=self._steps is not None)
        start, middle = self._server.initial_camera, _array(center.cpu())

        far = DISTANCE * radius * (1.0 if self._steps is None else RUN_DISTANCE)
        seen = orbit(START_AZIMUTH_DEG, START_ELEVATION_DEG, far, FOV_DEG, 1, 1)
        start.position = middle + _array(seen.positions[0])
        start.look_at = middle
        start.fov = math.radians(FOV_DEG)

    def show_cameras(self, cameras: Cameras) -> None:
        """Draw the frusta of the first training views."""
        some = cameras.select(slice(0, MOST_FRUSTA)).to("cpu")
        quats = rotmat_to_quat(some.camera_to_world[:, :3, :3])

        for index in range(len(some)):
            fov = 2.0 * math.atan(0.5 * some.height / float(some.Ks[index, 1, 1]))
            pose = {"wxyz": _array(quats[index]), "position": _array(some.positions[index])}
            if index < len(self._frusta):
                self._frusta[index].wxyz = pose["wxyz"]
                self._frusta[index].position = pose["position"]
                self._frusta[index].fov = fov
            else:
                aspect = some.width / some.height
                name = f"/cameras/{index}"
                made = self._server.scene.add_camera_frustum(
                    name, fov, aspect, scale=0.12, thickness=0.004, color=FRUSTUM_COLOUR, **pose
                )
                self._frusta.append(made)

        for extra in self._frusta[len(some) :]:
            extra.remove()
        del self._frusta[len(some) :]

    def show_target(self, target: Target, scene: Gaussians) -> None:
        """Show the newest target of a run, and the scene as it is seen from the same cameras below."""
        seen = render(scene, target.cameras, background=target.background).color
        rows = torch.cat([target.color, seen]).cpu()
        picture = to_uint8(tile_grid(rows, columns=len(target.color)))

        if self._target is None:
            label = "Target, and the scene from there"
            self._target = self._server.gui.add_image(picture, label=label)
        else:
            self._target.image, self._target.visible = picture, True

    def show_record(self, record: RunRecord) -> None:
        """Plot the curves of a run and list the last value of each."""
        last = []

        for chart in charts(record):
            steps = np.array(sorted({step for item in chart.series for step in item.steps}), float)
            columns = [_column(steps, item.steps, item.values) for item in chart.series]
            values = [item.values[-1] for item in chart.series]
            words = ("none" if value is None else f"{value:.4g}" for value in values)
            last.append(f"{chart.title}: {', '.join(words)}")

            if chart.title in self._plots:
                self._plots[chart.title].data = (steps, *columns)
                continue

            series = [
                viser.uplot.Series(label=item.name, stroke=color, width=2)
                for item, color in zip(chart.series, LINE_COLOURS * 4, strict=False)
            ]
            self._plots[chart.title] = self._server.gui.add_uplot(
                data=(steps, *columns),
                series=(viser.uplot.Series(label="step"), *series),
                scales={"x": viser.uplot.Scale(time=False, auto=True)},
                title=chart.title,
                aspect=2.0,
            )

        self._numbers.value, self._numbers.visible = "\n".join(last), bool(last)

    def _refresh(self, state: TrainState, now: float) -> None:
        with self._server.atomic():
            self.show_scene(state.optimizer.gaussians)
            if state.cameras is not None:
                self.show_cameras(state.cameras)
            if state.pool.targets:
                self.show_target(state.pool.targets[-1], state.optimizer.gaussians.detach())
        self.show_record(RunRecord("", self._steps, {}, {}, tuple(self._rows)))

        word = "paused" if self._paused.is_set() else "running"
        self._status.value = f"{word}, step {state.step} of {self._steps}"

        took = time.monotonic() - now
        self._due_s = now + took + max(REFRESH_S, took / MOST_SHARE)

    def _add_run_controls(self) -> None:
        gui = self._server.gui
        pause, stop = gui.add_button("Pause"), gui.add_button("Stop and export", color="red")
        self._pause, self._stop = pause, stop
        pause.disabled = stop.disabled = self._steps is None
        frusta = gui.add_checkbox("Training cameras", initial_value=True)

        root = self._server.scene.add_frame("/cameras", show_axes=False)

        def pause_or_go_on(_: object) -> None:
            self.hold(not self._paused.is_set())
            pause.label = "Go on" if self._paused.is_set() else "Pause"

        def stop_run(_: object) -> None:
            self.end()
            pause.disabled = stop.disabled = True

        def show_or_hide(_: object) -> None:
            root.visible = frusta.value

        pause.on_click(pause_or_go_on)
        stop.on_click(stop_run)
        frusta.on_update(show_or_hide)

    def _add_backgrounds(self) -> None:
        colors = {"grey": BACKGROUND, "white": (1.0, 1.0, 1.0), "dark": (0.07, 0.08, 0.09)}
        choice = self._server.gui.add_dropdown("Background", tuple(colors), initial_value="grey")

        def paint(_: object = None) -> None:
            flat = Tensor(colors[choice.value]).expand(2, 2, 3)
            self._server.scene.set_background_image(to_uint8(flat))

        choice.on_update(paint)
        paint()


def _array(values: Tensor) -> Any:
    return values.detach().cpu().float().numpy()


def _column(steps: Any, own: tuple[int, ...], values: tuple[float | None, ...]) -> Any:
    """Return the values at `steps`, NaN where the series has none."""
    column = np.full(len(steps), np.nan)
    column[np.searchsorted(steps, own)] = [math.nan if value is None else value for value in values]
    return column

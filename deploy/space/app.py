"""A web page for many visitors: a sentence in, a splat out; a splat in, a better one or another format out.

What Hugging Face Spaces run (`python app.py`); on one's own machine it serves http://127.0.0.1:7860. All that it does
is done by `vlm3d_gs.studio.workshop`, as in `vlm3d-gs studio`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import gradio as gr
import torch

from vlm3d_gs.config import CriticFamily
from vlm3d_gs.config.presets import PRESETS, preset
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import Vlm3dGsError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import to_uint8
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.render import render
from vlm3d_gs.show.framing import BACKGROUND, DISTANCE, FOV_DEG, framed
from vlm3d_gs.studio.workshop import EXPORTS, NO_CRITIC, PRESETS_OWN, Shown, Workshop

EXAMPLES = (
    "a red cube on top of a blue sphere",
    "a yellow cylinder to the left of a purple cube",
    "a green torus",
)
LARGE = torch.cuda.is_available()
"""Whether presets and critics that need a GPU are offered."""
KEPT_S = 3600
"""How long what a visitor made is kept."""
MOST_UPLOAD = "200mb"
MOST_WAITING = 20
MOST_SEED = 2**31 - 1
PICTURE_EVERY_S = 2.0
PICTURE_PX = 384
POLL_S = 0.2
STYLE = "footer {display: none !important}"


class Watched:
    """A run in a thread, and its latest picture.

    Args:
        steps: of the run, for its words.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.picture: Any = None
        self.pictures = 0
        self.words = "loading the models"
        self.stopped = threading.Event()
        self._due_s = 0.0

    def observe(self, state: TrainState, scalars: Mapping[str, float], stop: Any) -> bool:
        """Draw the scene now and then; end the run if its visitor left. A `trainer.Observer`."""
        self.words = f"step {state.step} of {self.steps}"
        if time.monotonic() >= self._due_s:
            self.picture = picture(state.optimizer.gaussians.detach())
            self.pictures += 1
            self._due_s = time.monotonic() + PICTURE_EVERY_S
        return self.stopped.is_set()

    def say(self, words: str) -> None:
        """Take what the workshop says of an error."""
        self.words = words


def picture(scene: Gaussians) -> Any:
    """Return the scene from a little beside its front, [H, W, 3] uint8."""
    camera = orbit([25.0], 20.0, DISTANCE, FOV_DEG, PICTURE_PX, PICTURE_PX)
    with torch.no_grad():
        shown = render(framed(scene, own=True), camera.to(scene.device), background=BACKGROUND)
    return to_uint8(shown.color[0].cpu())


def refused(error: Vlm3dGsError) -> gr.Error:
    """Return an error as the page shows it; it is no news for the server's log."""
    return gr.Error(str(error), print_exception=False)


def on_page(shown: Shown, words: str) -> tuple[Any, ...]:
    """Return what the page shows of a splat: state, view, picture, words, answers, and whether it can be taken away."""
    room = Path(tempfile.mkdtemp(prefix="vlm3d-gs-view-"))
    write_splat(shown.scene, room / "scene.ply")
    answers = [
        [item.question.removesuffix("Answer Yes or No.").strip(), str(item)]
        for item in shown.answers
    ]
    return shown, str(room / "scene.ply"), picture(shown.scene), words, answers


def in_thread(workshop: Workshop, watched: Watched, work: Any) -> Iterator[Shown | None]:
    """Do something long in a thread; yields None at once and at each new picture, and at last what was made."""
    made: list[Shown | None] = []
    workshop.start(work, made.append)
    seen = -1
    try:
        while not made:
            if watched.pictures != seen:
                seen = watched.pictures
                yield None
            time.sleep(POLL_S)
    finally:
        # Also where the visitor left or pressed Stop.
        watched.stopped.set()
    workshop.wait()
    if made[0] is None:
        raise gr.Error(watched.words, print_exception=False)
    yield made[0]


def make(
    prompt: str, name: str, critic: str, seed: float, steps: float
) -> Iterator[tuple[Any, ...]]:
    """Make a splat of a sentence; yields pictures on the way."""
    length = int(steps) or None
    watched = Watched(length or preset(name, prompt).train.steps)
    with tempfile.TemporaryDirectory(prefix="vlm3d-gs-run-") as room:
        workshop = Workshop(Path(room), watched.observe, watched.say)
        try:
            config = workshop.configure(prompt, name, int(seed), critic, length)
        except Vlm3dGsError as error:
            raise refused(error) from None

        for shown in in_thread(workshop, watched, lambda: workshop.make(config)):
            if shown is None:
                yield None, None, watched.picture, watched.words, []
                continue
            words = f"Done: {len(shown.scene):,} Gaussians."
            # The folder goes with the run, so what is taken away must not name it.
            yield on_page(Shown(shown.title, shown.scene, None, shown.answers), words)


def refine(
    shown: Shown | None, prompt: str, name: str, keep: float, seed: float, steps: float
) -> Iterator[tuple[Any, ...]]:
    """Refine what is shown towards a sentence."""
    if shown is None:
        raise gr.Error("There is nothing to refine yet. Make a splat, or open a file.")
    length = int(steps) or None
    watched = Watched(length or preset(name, prompt).train.steps // 2)
    words: list[str] = []
    with tempfile.TemporaryDirectory(prefix="vlm3d-gs-run-") as room:
        workshop = Workshop(Path(room), watched.observe, watched.say)
        try:
            config = workshop.configure(prompt, name, int(seed))
        except Vlm3dGsError as error:
            raise refused(error) from None

        def work() -> Shown:
            better, refined = workshop.refine(shown, config, keep=keep, steps=length)
            words.append(refined.verdict)
            return better

        for made in in_thread(workshop, watched, work):
            if made is None:
                yield shown, gr.skip(), watched.picture, watched.words, []
            else:
                yield on_page(made, words[0])


def opened(file: str | None) -> tuple[Any, ...]:
    """Show a splat file of the visitor's."""
    if file is None:
        raise gr.Error("Choose a splat file first.")
    path = Path(file)
    try:
        shown = Workshop.open_upload(path.name, path.read_bytes())
    except Vlm3dGsError as error:
        raise refused(error) from None
    return on_page(shown, f"{path.name}: {len(shown.scene):,} Gaussians.")


def export(shown: Shown | None, choice: str) -> str:
    """Return the path of what is shown in another format."""
    if shown is None:
        raise gr.Error("There is nothing to take away yet. Make a splat, or open a file.")
    try:
        name, content = Workshop.export(shown, choice)
    except Vlm3dGsError as error:
        raise refused(error) from None
    path = Path(tempfile.mkdtemp(prefix="vlm3d-gs-export-")) / name.replace(" ", "-")
    path.write_bytes(content)
    return str(path)


def page(steps: int = 0) -> gr.Blocks:
    """Return the page.

    Args:
        steps: of a run unless the visitor says otherwise; 0 is the preset's.
    """
    presets = [name for name in PRESETS if LARGE or name.startswith("mini")]
    critics = [PRESETS_OWN, NO_CRITIC, *(get_args(CriticFamily) if LARGE else ("mini",))]
    with gr.Blocks(title="vlm3d-gs", delete_cache=(KEPT_S, KEPT_S)) as blocks:
        shown = gr.State(None, time_to_live=KEPT_S)
        gr.Markdown("# A sentence in, a 3D Gaussian splat out")
        with gr.Row():
            with gr.Column(scale=2):
                with gr.Tab("Make"):
                    prompt = gr.Textbox(EXAMPLES[0], label="What to make", lines=2)
                    generate = gr.Button("Generate", variant="primary")
                    stop = gr.Button("Stop")
                    with gr.Accordion("Settings", open=False):
                        name = gr.Dropdown(presets, value="mini", label="Preset")
                        critic = gr.Dropdown(critics, value=PRESETS_OWN, label="Critic")
                        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MOST_SEED)
                        length = gr.Number(
                            steps,
                            label="Steps (0: the preset's)",
                            precision=0,
                            minimum=0,
                            maximum=10_000,
                        )
                    gr.Examples([[text] for text in EXAMPLES], [prompt])
                with gr.Tab("Open and refine"):
                    file = gr.File(label="A splat file of any format", type="filepath")
                    wish = gr.Textbox(EXAMPLES[0], label="What it should show", lines=2)
                    keep = gr.Slider(0.0, 1.0, 0.0, label="How much of its looks is held")
                    better = gr.Button("Refine what is shown")
                with gr.Tab("Take away"):
                    choice = gr.Dropdown(list(EXPORTS), value=next(iter(EXPORTS)), label="As")
                    away = gr.Button("Make the file")
                    made = gr.File(label="Your file", interactive=False)
            with gr.Column(scale=3):
                words = gr.Markdown("Say what to make, and press Generate.")
                seen = gr.Image(label="As it is now", interactive=False, height=300)
                view = gr.Model3D(label="Turn it with the mouse", height=420)
                answers = gr.Dataframe(
                    headers=["The critic was asked", "It says"], interactive=False, wrap=True
                )

        outputs = [shown, view, seen, words, answers]
        busy = {"concurrency_limit": 1, "concurrency_id": "run"}
        running = generate.click(
            make, [prompt, name, critic, seed, length], outputs, api_name="make", **busy
        )
        refining = better.click(
            refine, [shown, wish, name, keep, seed, length], outputs, api_name="refine", **busy
        )
        file.upload(opened, [file], outputs, api_name="open")
        away.click(export, [shown, choice], [made], api_name="export")
        stop.click(None, cancels=[running, refining])
    return blocks.queue(max_size=MOST_WAITING)


def main() -> None:
    """Serve the page until Ctrl-C."""
    # A Space names its address in these; elsewhere the page is this machine's own.
    parser = argparse.ArgumentParser(description="Serve the page of vlm3d-gs.")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument(
        "--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    )
    parser.add_argument("--steps", type=int, default=0, help="Of a run; 0 is the preset's.")
    options = parser.parse_args()
    page(options.steps).launch(
        server_name=options.host, server_port=options.port, max_file_size=MOST_UPLOAD, css=STYLE
    )


if __name__ == "__main__":
    main()

"""The studio's page: a prompt, a button, the splat as it forms, a gallery, and files to take away."""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

import numpy as np

from vlm3d_gs.app.viewer import POLL_S, LiveView
from vlm3d_gs.config import CriticFamily
from vlm3d_gs.config.presets import PRESETS
from vlm3d_gs.core.errors import InputFileError, Vlm3dGsError
from vlm3d_gs.core.images import load_png, to_uint8
from vlm3d_gs.runs.answers import Answer
from vlm3d_gs.runs.interrupt import stop_requests
from vlm3d_gs.studio.workshop import EXPORTS, NO_CRITIC, PRESETS_OWN, Shown, Workshop

EXAMPLE = "a red cube on top of a blue sphere"
NOTHING_YET = "(no runs yet)"
LONGEST_WAIT_S = 60.0
"""For a run in progress when the studio is closed."""
MOST_SEED = 2**31 - 1


def serve(
    folder: Path,
    *,
    host: str | None = None,
    port: int | None = None,
    browser: bool = True,
    announce: Callable[[str], None],
) -> None:
    """Serve the studio until Ctrl-C.

    Args:
        folder: where runs are, and new ones go.
        host: address to listen at; None is this machine only.
        port: None takes a free one.
        browser: open the page in the browser.
        announce: called with the page's address.

    Raises:
        ConfigError: host and port cannot be listened at.
    """
    with Studio(folder, host=host, port=port) as studio:
        announce(f"studio: {studio.address} (Ctrl-C ends)")
        if browser:
            webbrowser.open(studio.address)
        with stop_requests() as stop_requested:
            while not stop_requested():
                time.sleep(POLL_S)


class Studio(LiveView):
    """One served page that makes runs; a context manager.

    Args:
        folder: where runs are, and new ones go.
        host: address to listen at; None is this machine only.
        port: None takes a free one.
    """

    def __init__(self, folder: Path, *, host: str | None = None, port: int | None = None) -> None:
        super().__init__("", host=host, port=port)
        self.workshop = Workshop(folder, self.observe, self.say)
        self._shown: Shown | None = None
        gui = self._server.gui
        self._answers = gui.add_text(
            "The critic says", "", multiline=True, disabled=True, visible=False
        )
        tabs = gui.add_tab_group()
        with tabs.add_tab("Make"):
            self._add_making()
        with tabs.add_tab("Gallery"):
            self._add_gallery()
        with tabs.add_tab("Refine"):
            self._add_refining()
        with tabs.add_tab("Take away"):
            self._add_exports()
        self.say("Say what to make, and press Generate.")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A run in progress is saved and exported as it is.
        self.end()
        self.workshop.wait(LONGEST_WAIT_S)
        super().__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Show a text as the state of the page."""
        self._status.value = text

    def generate(self) -> None:
        """Start a run of what the page asks for."""
        with self._errors_shown():
            config = self.workshop.configure(
                self._wish.value, self._preset.value, int(self._seed.value), self._critic.value
            )
            # Before it starts: a run may be refused at once.
            if not self.workshop.busy:
                self.begin(config.prompt, config.train.steps)
                self._answers.visible = False
            self.workshop.start(lambda: self.workshop.make(config), self._made)

    def refine(self) -> None:
        """Start to refine what is shown towards the sentence that the page asks for."""
        shown = self._shown
        if shown is None:
            self.say("There is nothing to refine yet. Make a splat, or open one in the gallery.")
            return
        with self._errors_shown():
            config = self.workshop.configure(
                self._better_wish.value, self._preset.value, int(self._seed.value)
            )
            keep = float(self._keep.value)
            if not self.workshop.busy:
                self.begin(config.prompt, config.train.steps)
                self._answers.visible = False
            said: list[str] = []

            def work() -> Shown:
                better, refined = self.workshop.refine(shown, config, keep=keep)
                said.append(refined.verdict)
                return better

            def done(made: Shown | None) -> None:
                self.end_run()
                # Also where it failed: the page goes back to what it showed.
                self.show(made or shown)
                if said:
                    self.say(f"{said[0]}. See Take away.")

            self.workshop.start(work, done)

    def show(self, shown: Shown) -> None:
        """Show a finished scene, and offer it for download."""
        self._shown, self._prompt.value = shown, shown.title
        self.look_at(shown.scene)
        self.show_scene(shown.scene)
        self._answers.value = in_words(shown.answers)
        self._answers.visible = bool(shown.answers)
        self._download.disabled = False
        if shown.folder is not None:
            self._better_wish.value = shown.title

    def _made(self, shown: Shown | None) -> None:
        """Show what a run left; called in its thread."""
        self.end_run()
        if shown is not None:
            self.show(shown)
            self.say(f"Done: {len(shown.scene):,} Gaussians in {shown.folder}. See Take away.")
        self._refresh_gallery()

    def _add_making(self) -> None:
        gui = self._server.gui
        self._wish = gui.add_text("What to make", EXAMPLE, multiline=True)
        self._preset = gui.add_dropdown("Preset", PRESETS, initial_value="mini")
        critics = (PRESETS_OWN, NO_CRITIC, *get_args(CriticFamily))
        self._critic = gui.add_dropdown("Critic", critics, initial_value=PRESETS_OWN)
        self._seed = gui.add_number("Seed", 0, min=0, max=MOST_SEED, step=1)
        generate, another = (
            gui.add_button("Generate", color="green"),
            gui.add_button("Another seed"),
        )

        def next_seed(_: object) -> None:
            self._seed.value = int(self._seed.value) + 1
            self.generate()

        generate.on_click(lambda _: self.generate())
        another.on_click(next_seed)
        # Pause and stop are those of the live view.
        self._add_run_controls()

    def _add_gallery(self) -> None:
        gui = self._server.gui
        self._runs = gui.add_dropdown("Run", (NOTHING_YET,))
        open_run = gui.add_button("Open")
        upload = gui.add_upload_button("Or open a splat file")
        nothing = np.zeros((1, 1, 3), np.uint8)
        self._sheet = gui.add_image(nothing, label="Its sheet", visible=False)

        def open_chosen(_: object) -> None:
            if self._runs.value != NOTHING_YET:
                with self._errors_shown():
                    self.show(self.workshop.open_run(self._runs.value))
                    self.say(f"Showing the run {self._runs.value}.")

        def open_file(event: Any) -> None:
            with self._errors_shown():
                dropped = event.target.value
                self.show(self.workshop.open_upload(dropped.name, dropped.content))
                self.say(f"Showing {Path(dropped.name).name}.")

        open_run.on_click(open_chosen)
        upload.on_upload(open_file)
        self._runs.on_update(lambda _: self._show_sheet())
        self._refresh_gallery()

    def _add_refining(self) -> None:
        gui = self._server.gui
        self._better_wish = gui.add_text("What it should show", EXAMPLE, multiline=True)
        self._keep = gui.add_slider("Looks to hold", 0.0, 1.0, 0.05, 0.0)
        gui.add_button("Refine what is shown").on_click(lambda _: self.refine())

    def _add_exports(self) -> None:
        gui = self._server.gui
        choices = tuple(EXPORTS)
        spz = next(choice for choice in choices if choice.startswith(".spz"))
        choice = gui.add_dropdown("File", choices, initial_value=spz)
        self._download = gui.add_button("Download", disabled=True)

        def download(event: Any) -> None:
            if self._shown is None:
                return
            with self._errors_shown():
                self.say(f"Making {choice.value} ...")
                name, content = self.workshop.export(self._shown, choice.value)
                event.client.send_file_download(name, content, save_immediately=True)
                self.say(f"{name}: {len(content) / 1e6:.2f} MB, in your downloads.")

        self._download.on_click(download)

    def _refresh_gallery(self) -> None:
        names = tuple(self.workshop.gallery()) or (NOTHING_YET,)
        self._runs.options = names
        self._runs.value = names[0]
        self._show_sheet()

    def _show_sheet(self) -> None:
        """Show the pictures of the run that is chosen in the gallery, if it has any."""
        sheet = self.workshop.folder / self._runs.value / "sheet.png"
        try:
            picture = to_uint8(load_png(sheet))
        except InputFileError:
            self._sheet.visible = False
        else:
            self._sheet.image, self._sheet.visible = picture, True

    def _errors_shown(self) -> _Shown:
        return _Shown(self)


class _Shown:
    """Shows our errors on the page instead of raising them."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Vlm3dGsError):
            self._studio.say(str(error))
            return True
        return False


def in_words(answers: Sequence[Answer]) -> str:
    """Return answers as lines of text: Yes or No, how sure, and the question."""
    return "\n".join(
        f"{item}: {item.question.removesuffix('Answer Yes or No.').strip()}" for item in answers
    )

"""The nodes: generate, refine, judge, convert, load and save a splat, by the core's current (V3) conventions."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import IO, ComfyExtension, Types
from PIL import Image

from vlm3d_gs.assembly.judges import KINDS, build_judge
from vlm3d_gs.config import CriticFamily
from vlm3d_gs.config.presets import PRESETS, preset
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import to_uint8
from vlm3d_gs.evaluate.judging import ask_about, score, show_scene
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.formats.registry import FORMATS
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.render import render
from vlm3d_gs.show.framing import BACKGROUND, DISTANCE, FOV_DEG, framed
from vlm3d_gs.studio.workshop import EXPORTS, NO_CRITIC, PRESETS_OWN, Shown, Workshop

from .splats import from_core, to_core

CATEGORY = "3d/vlm3d-gs"
EXAMPLE = "a red cube on top of a blue sphere"
MOST_SEED = 2**31 - 1
MOST_STEPS = 100_000
VIEWS_DEG = (0.0, 90.0, 180.0, 270.0)
VIEW_PX = 512
PREVIEW_PX = 384
PREVIEW_EVERY_S = 2.0
FILES = {
    choice: export.suffix.removeprefix("-mesh").removeprefix(".")
    for choice, export in EXPORTS.items()
    if export.suffix not in (".html", "-turntable.mp4")
}
"""What a 3D file can be made as -> its format as the core names it."""
SPLAT_FILES = tuple(choice for choice in FILES if not choice.startswith("-mesh"))
READ = tuple(suffix for row in FORMATS for suffix in row.all_suffixes)


@contextmanager
def gradients() -> Iterator[None]:
    """Allow gradients, which the core switches off around every node."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def workshop(steps: int) -> Iterator[Workshop]:
    """A workshop whose runs move the node's bar, and end when the user presses Cancel.

    Args:
        steps: of the run.
    """
    # What other nodes left in the card's memory is in the way.
    if torch.cuda.is_available():
        comfy.model_management.unload_all_models()
    root = Path(folder_paths.get_temp_directory())
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vlm3d-gs-", dir=root) as room, gradients():
        yield Workshop(Path(room), _bar(steps))
    comfy.model_management.throw_exception_if_processing_interrupted()


def _bar(steps: int) -> Callable[..., bool]:
    """Return a `trainer.Observer` that shows progress, with a picture now and then."""
    bar, due_s = comfy.utils.ProgressBar(steps), [0.0]

    def observe(state: TrainState, scalars: Mapping[str, float], stop: Callable[[], bool]) -> bool:
        preview = None
        if time.monotonic() >= due_s[0]:
            picture = views(state.optimizer.gaussians.detach(), (25.0,), PREVIEW_PX)[0]
            preview = ("JPEG", Image.fromarray(to_uint8(picture)), PREVIEW_PX)
            due_s[0] = time.monotonic() + PREVIEW_EVERY_S
        bar.update_absolute(state.step, steps, preview)
        return bool(comfy.model_management.processing_interrupted())

    return observe


@torch.no_grad()
def views(scene: Gaussians, azimuths_deg: tuple[float, ...], size_px: int) -> torch.Tensor:
    """Return pictures of a splat from some sides as the core's IMAGE, [B, H, W, 3] in 0..1."""
    cameras = orbit(azimuths_deg, 20.0, DISTANCE, FOV_DEG, size_px, size_px)
    shown = render(framed(scene, own=True), cameras.to(scene.device), background=BACKGROUND)
    return shown.color.clamp(0.0, 1.0).cpu()


class Generate(IO.ComfyNode):
    """A sentence in, a splat out."""

    @classmethod
    def define_schema(cls) -> IO.Schema:
        """Return what the core shows of the node."""
        return IO.Schema(
            node_id="VLM3DGS_Generate",
            display_name="Generate Splat (vlm3d-gs)",
            category=CATEGORY,
            description="A sentence in, a 3D Gaussian splat out. The preset mini needs no GPU and knows eight colours "
            "and five shapes; the others take any words.",
            search_aliases=["text to 3d", "text to splat", "gaussian splatting"],
            inputs=[
                IO.String.Input("prompt", default=EXAMPLE, multiline=True),
                IO.Combo.Input("preset", options=list(PRESETS), default="mini"),
                IO.Int.Input("seed", default=0, min=0, max=MOST_SEED, control_after_generate=True),
                _critic(),
                _steps(),
            ],
            outputs=[
                IO.Splat.Output(display_name="splat"),
                IO.Image.Output(display_name="views", tooltip="From four sides."),
                IO.String.Output(display_name="answers", tooltip="The critic's."),
            ],
        )

    @classmethod
    def execute(cls, prompt: str, preset: str, seed: int, critic: str, steps: int) -> IO.NodeOutput:
        """Run; an interrupted run ends after its step."""
        with workshop(steps or _length(preset, prompt)) as shop:
            shown = shop.make(shop.configure(prompt, preset, seed, critic, steps or None))
        answers = "\n".join(f"{item}: {item.question}" for item in shown.answers)
        scene = shown.scene.detach()
        return IO.NodeOutput(to_core(scene), views(scene, VIEWS_DEG, VIEW_PX), answers)


class Refine(IO.ComfyNode):
    """A splat and a sentence in, a better splat out, or the same one."""

    @classmethod
    def define_schema(cls) -> IO.Schema:
        """Return what the core shows of the node."""
        return IO.Schema(
            node_id="VLM3DGS_Refine",
            display_name="Refine Splat (vlm3d-gs)",
            category=CATEGORY,
            description="Makes a splat better towards a sentence. It stays as it is unless a judge, who sees other "
            "views than the run, prefers the new one.",
            inputs=[
                IO.Splat.Input("splat"),
                IO.String.Input("prompt", default=EXAMPLE, multiline=True),
                IO.Combo.Input("preset", options=list(PRESETS), default="mini"),
                IO.Int.Input("seed", default=0, min=0, max=MOST_SEED, control_after_generate=True),
                IO.Float.Input(
                    "keep",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of its looks is held.",
                ),
                _steps(),
            ],
            outputs=[
                IO.Splat.Output(display_name="splat"),
                IO.Boolean.Output(display_name="accepted"),
                IO.String.Output(display_name="verdict"),
            ],
        )

    @classmethod
    def execute(
        cls, splat: Types.SPLAT, prompt: str, preset: str, seed: int, keep: float, steps: int
    ) -> IO.NodeOutput:
        """Run; what is not better is handed on as it came."""
        with workshop(steps or _length(preset, prompt) // 2) as shop:
            config = shop.configure(prompt, preset, seed)
            shown = Shown("splat", from_core(splat))
            better, refined = shop.refine(shown, config, keep=keep, steps=steps or None)
        accepted = refined.accepted
        made = to_core(better.scene) if accepted else splat
        return IO.NodeOutput(made, accepted, refined.verdict)


class Judge(IO.ComfyNode):
    """Whether a splat shows what a sentence says."""

    @classmethod
    def define_schema(cls) -> IO.Schema:
        """Return what the core shows of the node."""
        return IO.Schema(
            node_id="VLM3DGS_Judge",
            display_name="Judge Splat (vlm3d-gs)",
            category=CATEGORY,
            description="Asks a vision-language model Yes/No questions about a splat, seen from four sides.",
            inputs=[
                IO.Splat.Input("splat"),
                IO.String.Input("prompt", default=EXAMPLE, multiline=True),
                IO.String.Input("judge", default="mini", tooltip=KINDS),
            ],
            outputs=[
                IO.Float.Output(display_name="score", tooltip="Mean probability of Yes."),
                IO.Boolean.Output(display_name="all_yes"),
                IO.String.Output(display_name="answers"),
            ],
        )

    @classmethod
    def execute(cls, splat: Types.SPLAT, prompt: str, judge: str) -> IO.NodeOutput:
        """Ask; a judge who does not answer all questions is an error."""
        with gradients():
            found = ask_about(build_judge(judge), prompt, [show_scene(from_core(splat))])[0]
        if found is None:
            raise RuntimeError(f"The judge {judge!r} did not answer all questions.")
        answers = "\n".join(
            f"{'Yes' if odds > 0.0 else 'No'} (log-odds {odds:.1f}): {name}"
            for name, odds in found.items()
        )
        return IO.NodeOutput(score(found), min(found.values()) > 0.0, answers)


class Convert(IO.ComfyNode):
    """A splat as a file of some format, for the core's nodes that save and show files."""

    @classmethod
    def define_schema(cls) -> IO.Schema:
        """Return what the core shows of the node."""
        return IO.Schema(
            node_id="VLM3DGS_Convert",
            display_name="Convert Splat (vlm3d-gs)",
            category=CATEGORY,
            description="Makes a 3D file of a splat: any splat format with its harmonics, or a closed mesh.",
            inputs=[
                IO.Splat.Input("splat"),
                IO.Combo.Input("format", options=list(FILES), default=next(iter(FILES))),
            ],
            outputs=[IO.File3DAny.Output(display_name="model_3d")],
        )

    @classmethod
    def execute(cls, splat: Types.SPLAT, format: str) -> IO.NodeOutput:
        """Write into memory."""
        with gradients():
            _, content = Workshop.export(Shown("splat", from_core(splat)), format)
        return IO.NodeOutput(Types.File3D(BytesIO(content), file_format=FILES[format]))


class Load(IO.ComfyNode):
    """A splat from a file of any format that we read."""

    @classmethod
    def define_schema(cls) -> IO.Schema:
        """Return what the core shows of the node; files are those in its folder input/3d."""
        base = Path(folder_paths.get_input_directory())
        (base / "3d").mkdir(parents=True, exist_ok=True)
        files = sorted(
            path.relative_to(base).as_posix()
            for path in (base / "3d").rglob("*")
            if path.name.lower().endswith(READ)
        )
        return IO.Schema(
            node_id="VLM3DGS_Load",
            display_name="Load Splat (vlm3d-gs)",
            category=CATEGORY,
            description=f"Reads {', '.join(sorted(set(READ)))}; its bytes say what a file is.",
            inputs=[IO.Combo.Input("file", options=files or ["none"], upload=IO.UploadType.model)],
            outputs=[IO.Splat.Output(display_name="splat")],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        """Return whether the file is there."""
        there = folder_paths.exists_annotated_filepath(file)
        return True if there else f"There is no splat file {file}."

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        """Return what changes when the file does."""
        path = folder_paths.get_annotated_filepath(file)
        with open(path, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    @classmethod
    def execute(cls, file: str) -> IO.NodeOutput:
        """Read."""
        with gradients():
            return IO.NodeOutput(to_core(read_splat(folder_paths.get_annotated_filepath(file))))


class Save(IO.ComfyNode):
    """A splat into the core's output folder."""

    @classmethod
    def define_schema(cls) -> IO.Schema:
        """Return what the core shows of the node."""
        return IO.Schema(
            node_id="VLM3DGS_Save",
            display_name="Save Splat (vlm3d-gs)",
            category=CATEGORY,
            description="Writes a splat with its harmonics, in any format that we write.",
            is_output_node=True,
            inputs=[
                IO.Splat.Input("splat"),
                IO.Combo.Input("format", options=list(SPLAT_FILES), default=SPLAT_FILES[0]),
                IO.String.Input("filename_prefix", default="3d/splat"),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, splat: Types.SPLAT, format: str, filename_prefix: str) -> IO.NodeOutput:
        """Write under the next free number."""
        folder, name, number, below, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        file = f"{name}_{number:05}_.{FILES[format]}"
        with gradients():
            _, content = Workshop.export(Shown("splat", from_core(splat)), format)
        Path(os.path.join(folder, file)).write_bytes(content)
        saved = {"filename": file, "subfolder": below, "type": "output"}
        return IO.NodeOutput(ui={"3d": [saved]})


def _critic() -> Any:
    choices = [PRESETS_OWN, NO_CRITIC, *get_args(CriticFamily)]
    return IO.Combo.Input("critic", options=choices, default=PRESETS_OWN)


def _steps() -> Any:
    return IO.Int.Input(
        "steps", default=0, min=0, max=MOST_STEPS, tooltip="0: as many as the preset says."
    )


def _length(name: str, prompt: str) -> int:
    return preset(name, prompt).train.steps


class Extension(ComfyExtension):
    """All nodes."""

    async def get_node_list(self) -> list[type[IO.ComfyNode]]:
        """Return the nodes."""
        return [Generate, Refine, Judge, Convert, Load, Save]


async def comfy_entrypoint() -> Extension:
    """Return the extension; called by the core's loader."""
    return Extension()

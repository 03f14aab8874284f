"""Where the layout of a run comes from: a file, the grammar, or a language model."""

from __future__ import annotations

from pathlib import Path

from vlm3d_gs.assembly.weights import embedded
from vlm3d_gs.config import Config
from vlm3d_gs.core.errors import ConfigError, ExportError
from vlm3d_gs.core.prompts import plain_words
from vlm3d_gs.layout.ask import Writer, ask_for_graph
from vlm3d_gs.layout.draw import draw_png
from vlm3d_gs.layout.files import read_layout, write_layout
from vlm3d_gs.layout.grammar import parse_scene
from vlm3d_gs.layout.schema import model_schema
from vlm3d_gs.layout.solver import Layout, solve_layout
from vlm3d_gs.models import family_entry
from vlm3d_gs.runs.folder import LAYOUT_FILE, LAYOUT_PICTURE


def find_layout(config: Config, file: Path | None = None, *, from_model: bool = False) -> Layout:
    """Return the layout of a run's prompt.

    Args:
        config: the run; its prompt, its critic, and whether its models are embedded matter.
        file: a layout file, which is taken as it is; None for none.
        from_model: ask the critic for the objects and relations; else the grammar reads them.

    Raises:
        PromptError: the grammar does not understand the prompt.
        LayoutError: what is said cannot hold together, or the file is malformed.
        InputFileError: the file cannot be read.
        ModelError: the model gives no usable answer.
        ConfigError: the critic cannot write.
    """
    if file is not None:
        return read_layout(file, config.prompt)
    if from_model:
        return solve_layout(ask_for_graph(config.prompt, _writer(config), solve_layout))
    small = embedded(config.priors, config.critic)
    text = plain_words(config.prompt) if small else config.prompt
    return solve_layout(parse_scene(text, embedded=small))


def scene_layout(config: Config, file: Path | None, *, resume: bool = False) -> Layout:
    """Return the layout of a run that makes objects one by one.

    Args:
        config: the run.
        file: a layout file; None for none.
        resume: without a file, take that of the interrupted scene in the run's folder.

    Raises:
        PromptError: as in `find_layout`.
        LayoutError: as in `find_layout`.
        InputFileError: the file cannot be read.
    """
    before = config.out / LAYOUT_FILE
    if file is None and resume and before.is_file():
        file = before
    return find_layout(config, file)


def prompt_of_file(file: Path, prompt: str) -> str:
    """Return the prompt of a layout file, which must be the one given, if any is.

    Raises:
        ConfigError: they differ.
        LayoutError: as in `read_layout`.
        InputFileError: as in `read_layout`.
    """
    own = read_layout(file, prompt).graph.prompt
    if prompt and own != prompt:
        raise ConfigError(
            f"The prompt of {file} is {own!r}, not {prompt!r}. Leave the prompt out, or change it in the file."
        )
    return own


def save_layout(layout: Layout, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write a layout as JSON and as a picture into a folder, which is made if it is missing.

    Raises:
        ExportError: one of the files is there and `overwrite` is not set, or the folder cannot be made.
    """
    paths = [folder / LAYOUT_FILE, folder / LAYOUT_PICTURE]
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        raise ExportError(
            f"{' and '.join(there)} would be replaced. Add --overwrite, or choose another --out."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"Cannot make the folder {folder}: {error.strerror or error}.") from None

    write_layout(layout, paths[0])
    draw_png(layout, paths[1])
    return paths


def _writer(config: Config) -> Writer:
    """Return the critic as a writer of text."""
    critic = config.critic
    if critic.family == "server":
        from vlm3d_gs.critic.writer import ServerWriter

        return ServerWriter(critic.server, model_schema())
    if family_entry("critic", critic.family).embedded:
        raise ConfigError(
            "The embedded critic can answer Yes and No, but not write a layout. Use another one, for example "
            "--critic qwen2.5-vl-7b, or --critic server with --set critic.server.url=... and .model=...; or leave "
            "--from-model out."
        )

    from vlm3d_gs.assembly.critic import text_writer

    return text_writer(config)

"""A film of a run: the previews that it wrote, in order, and the final scene."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.images import label, load_png, resize
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.runs.record import SPLAT, RunRecord, read_record
from vlm3d_gs.show.sheet import preview
from vlm3d_gs.show.video import write_video

SHORTEST_S, LONGEST_S = 0.05, 3600.0
LONGEST_PX = 2048
"""Longest side of a film, whatever lies in the folder; the previews of a run have a quarter of it."""
BAR_PX = 6
"""Height of the progress bar under each picture."""
CAPTION_PX = 24
HOLD = 4
"""The last picture is shown this many times as long as the others."""
BAR_DONE, BAR_LEFT, PAPER = (0.23, 0.51, 0.77), (0.85, 0.87, 0.89), (1.0, 1.0, 1.0)


def write_film(run: str | Path, path: str | Path, *, seconds: float = 6.0) -> int:
    """Write a film of a run's previews, each with its step, and of the final scene if there is one.

    Args:
        run: the run's folder, finished or not.
        path: the file, ending in .mp4, .gif or .webp; replaced if it exists.
        seconds: length of the film, above 0.

    Returns:
        Number of distinct pictures in it.

    Raises:
        InputFileError: not a run's folder, or a run without previews.
        ExportError: another suffix, or the folder does not exist.
        ConfigError: a length that is not positive.
    """
    folder, target = Path(run), Path(path)
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise ConfigError(f"A film lasts {SHORTEST_S:g} to {LONGEST_S:g} seconds, got {seconds:g}.")

    record = read_record(folder)
    previews = _previews(folder)
    if not previews:
        raise InputFileError(
            f"The run in {folder} has no previews to make a film of. Make more of them, for example "
            "forty: vlm3d-gs generate PROMPT --set train.preview_every=0.025"
        )

    with atomic_path(target) as temporary:
        count = len(previews) + (folder / SPLAT).is_file()
        pictures = _pictures(folder, previews, record)
        fps = (count - 1 + HOLD) / seconds
        write_video(_hold_last(pictures, count), temporary, fps)
    return count


def _previews(folder: Path) -> list[tuple[int, Path]]:
    """Return the steps and files of a run's previews, in order."""
    previews = []
    for path in (folder / "previews").glob("step_*.png"):
        number = re.fullmatch(r"step_(\d+)", path.stem)
        if number:
            previews.append((int(number[1]), path))
    return sorted(previews)


def _pictures(
    folder: Path, previews: list[tuple[int, Path]], record: RunRecord
) -> Iterator[Tensor]:
    """Yield captioned previews, then the final scene from the same four views."""
    done = record.summary.get("steps")
    last = done if isinstance(done, int) else previews[-1][0]
    total = max(record.planned_steps or last, 1)
    first = load_png(previews[0][1])
    shrink = min(1.0, LONGEST_PX / max(first.shape[:2]))
    size = (max(1, round(first.shape[0] * shrink)), max(1, round(first.shape[1] * shrink)))

    for step, path in previews:
        yield _captioned(load_png(path), size, f"step {step} of {total}", step / total)

    if (folder / SPLAT).is_file():
        final = preview(read_splat(folder / SPLAT), size_px=size[0])
        yield _captioned(final, size, f"after {last} steps", last / total)


def _captioned(picture: Tensor, size: tuple[int, int], text: str, share: float) -> Tensor:
    """Return a picture above a progress bar and a line of text, [H, W, 3] with even sides."""
    height, width = size
    resized = resize(picture[None], height, width)[0]

    bar = torch.tensor(BAR_LEFT).repeat(BAR_PX, width, 1)
    bar[:, : round(width * min(max(share, 0.0), 1.0))] = torch.tensor(BAR_DONE)
    caption = torch.tensor(PAPER).repeat(CAPTION_PX, width, 1)
    caption = label(caption[None], [text])[0]

    frame = torch.cat([resized, bar, caption])
    return frame[: frame.shape[0] // 2 * 2, : width // 2 * 2]


def _hold_last(pictures: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """Yield each picture once, and the last one `HOLD` times."""
    for index, picture in enumerate(pictures):
        for _ in range(HOLD if index == count - 1 else 1):
            yield picture

"""What judges say about runs: held-out Yes/No questions on each, and two side by side in both orders."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import WHITE, encode_png, to_uint8
from vlm3d_gs.core.prompts import parse_prompt
from vlm3d_gs.critic.questions.checklist import held_out_questions
from vlm3d_gs.critic.questions.templates import VIEW_NAMES
from vlm3d_gs.evaluate.gpteval.ratings import Result, Verdict
from vlm3d_gs.evaluate.judges import Judge, Look
from vlm3d_gs.render import Backend, render
from vlm3d_gs.show.framing import DISTANCE, FOV_DEG, framed
from vlm3d_gs.show.surfaces import surface_pictures

AZIMUTHS_DEG = (0.0, 90.0, 180.0, 270.0)
"""The views whose names every critic knows."""
ELEVATION_DEG = 15.0
GREY = (0.5, 0.5, 0.5)
"""Background of pictures for questions."""
PAIR_QUESTION = """The left half and the right half of the picture show two 3D objects made from the same text: "{}".
Each is seen from four sides, above in colour and below as surface normals. Which one is better: does it show everything
that the text says, is it one sound object from all sides, is its surface clean?
1. The left one. 2. The right one. 3. Neither.
Write one short sentence for each object. Then end with a line that holds nothing but the number of your answer."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The pictures of one scene for judges."""

    views: tuple[bytes, ...]
    """PNG files of four sides, for questions about it alone."""
    grid: bytes
    """PNG file of four sides with their normals below, for comparisons."""


def show_scene(gaussians: Gaussians, *, size_px: int = 128, backend: Backend = "auto") -> Shown:
    """Render a scene for judges.

    Args:
        gaussians: at least one.
        size_px: side of a view; the grid has twice as many pixels a view.
        backend: as in `render.render`.
    """
    scene = framed(gaussians, own=True)
    small = orbit(AZIMUTHS_DEG, ELEVATION_DEG, DISTANCE, FOV_DEG, size_px, size_px)
    large = small.resized(2 * size_px, 2 * size_px)
    with torch.no_grad():
        views = render(scene, small.to(scene.device), backend=backend, background=GREY).color
        found = render(scene, large.to(scene.device), backend=backend, background=WHITE)
        normals = surface_pictures(found, large, "normal", WHITE, (0.0, 1.0))

    blocks = [to_uint8(one) for one in (found.color, normals)]
    rows = [
        np.concatenate(block[start : start + 2], axis=1) for block in blocks for start in (0, 2)
    ]
    return Shown(tuple(encode_png(one) for one in views.cpu()), _png(np.concatenate(rows, axis=0)))


def ask_about(judge: Judge, prompt: str, shown: Sequence[Shown]) -> list[dict[str, float] | None]:
    """Return the log-odds of Yes to the held-out questions about each scene; None without an answer to all.

    Raises:
        PromptError: the prompt is empty.
        ModelError: a server refuses.
    """
    questions = held_out_questions(parse_prompt(prompt))
    looks = [Look(one.text, scene.views, VIEW_NAMES) for scene in shown for one in questions]
    answers = judge.ask(looks)

    found: list[dict[str, float] | None] = []
    for index in range(len(shown)):
        some = answers[index * len(questions) : (index + 1) * len(questions)]
        odds = [one.log_odds for one in some if one.log_odds is not None]
        names = [question.name for question in questions]
        found.append(dict(zip(names, odds, strict=True)) if len(odds) == len(names) else None)
    return found


def score(answers: Mapping[str, float]) -> float:
    """Return the mean probability of Yes over the questions, 0 to 1."""
    chances = [1.0 / (1.0 + math.exp(-max(-500.0, one))) for one in answers.values()]
    return sum(chances) / len(chances)


def ask_which(
    judge: Judge, prompt: str, pairs: Sequence[tuple[str, Shown, str, Shown]], prompt_id: int
) -> list[Verdict]:
    """Return a verdict in each order for pairs of scenes; pairs without an answer are left out.

    Args:
        judge: one that writes.
        prompt: what both should show.
        pairs: name and pictures of both.
        prompt_id: for the verdicts.
    """
    orders = [
        (f"{prompt_id}/{index}", *order)
        for index, (a, scene_a, b, scene_b) in enumerate(pairs)
        for order in ((a, scene_a, b, scene_b), (b, scene_b, a, scene_a))
    ]
    text = PAIR_QUESTION.format(prompt)
    looks = [
        Look(text, (_beside(one.grid, other.grid),), choices=1) for _, _, one, _, other in orders
    ]
    results: dict[int, Result] = {1: -1, 2: 1, 3: 0}
    return [
        Verdict(first, second, prompt_id, results[answer.choices[0]], pair)
        for (pair, first, _, second, _), answer in zip(orders, judge.ask(looks), strict=True)
        if answer.choices
    ]


def _beside(left: bytes, right: bytes) -> bytes:
    halves = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in (left, right)]
    return _png(np.concatenate(halves, axis=1))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()

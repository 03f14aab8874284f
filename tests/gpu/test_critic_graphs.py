"""A critic's look replayed as a CUDA graph says what the look itself says, value and gradient."""

from __future__ import annotations

import pytest
import torch

from gradients import assert_grad_close
from vlm3d_gs.critic.questions.templates import GEOMETRY_QUESTION, VIEW_NAMES, content_question
from vlm3d_gs.critic.qwen.runtime import Runtime
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.models import embedded_weights

pytestmark = pytest.mark.gpu

QUESTIONS = [content_question("a red cube on top of a blue sphere"), GEOMETRY_QUESTION]


@pytest.mark.parametrize("runtime", ["torch", "transformers"])
def test_a_replayed_graph_gives_the_plain_answers_and_gradients(
    runtime: Runtime, generator: torch.Generator
) -> None:
    device = torch.device("cuda")
    plain, graphed = (
        YesNoModel(embedded_weights("critic"), device, runtime=runtime, graphs=graphs)
        for graphs in (False, True)
    )
    assert graphed.recorder is not None
    for _ in range(3):  # the first is recorded, the others replayed with other pictures
        images = torch.rand(4, 64, 64, 3, generator=generator).to(device).requires_grad_()
        with torch.no_grad():
            graphed.log_odds(images, VIEW_NAMES, QUESTIONS)  # a reading in between
        odds_of_both, slopes = [], []
        for model in (plain, graphed):
            odds = model.log_odds(images, VIEW_NAMES, QUESTIONS)
            slopes += torch.autograd.grad(odds.sum(), images)
            odds_of_both.append(odds.detach())
        torch.testing.assert_close(*reversed(odds_of_both), atol=1e-3, rtol=1e-3)
        assert_grad_close("images", slopes[1], slopes[0])
    assert len(graphed.recorder) == 2, "forward alone, and with a gradient; no eager fallback"

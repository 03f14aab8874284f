"""A look of the critic holds nothing that a CUDA graph cannot, forward and backward, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from critic.test_yes_no import QUESTIONS, model_of, untrained, views
from gradients import assert_grad_close
from recordable import Recordable
from replayed import CpuGraphs
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.core.recording import Recorder
from vlm3d_gs.critic.questions.templates import VIEW_NAMES
from vlm3d_gs.critic.qwen.loading import MODEL_TYPES
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.mini.critic.model import critic_tokenizer, save_processor
from vlm3d_gs.models import embedded_weights

KINDS = [*sorted(MODEL_TYPES), "our own"]


@pytest.fixture(scope="module", params=KINDS)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> YesNoModel:
    if request.param == "our own":
        return YesNoModel(embedded_weights("critic"), torch.device("cpu"), runtime="torch")
    path: Path = tmp_path_factory.mktemp(request.param)
    untrained(request.param).save_pretrained(path)
    save_processor(path, critic_tokenizer())
    return model_of(path)


def test_a_look_is_replayed_forward_and_backward(plain: YesNoModel) -> None:
    def look(images: torch.Tensor) -> list[torch.Tensor]:
        odds = plain.scene_log_odds(images, VIEW_NAMES[:2], QUESTIONS[:2])
        (gradient,) = torch.autograd.grad(odds.sum(), images)
        with torch.no_grad():
            alone = plain.scene_log_odds(images, VIEW_NAMES[:2], QUESTIONS[:2])
        return [odds.detach(), alone, gradient]

    graphs, said = CpuGraphs(Recordable), list[str]()
    recorder = Recorder(graphs)
    for number in range(2):  # recorded, then replayed with other pictures of two scenes
        images = (views(4).unflatten(0, (2, 2)) * (1.0 - 0.3 * number)).requires_grad_()
        plain.recorder = None
        expected = look(images)
        plain.recorder = recorder
        with noticing(said.append):
            found = look(images)
        torch.testing.assert_close(found[:2], expected[:2])
        assert_grad_close("images", found[2], expected[2])
    assert said == []
    assert graphs.captures == 3  # forward, its backward, and forward alone

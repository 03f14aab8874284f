"""What the benchmark of large models compares: valid procedures, and a rival's critic that is equal to ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gradients import assert_grad_close
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.critic.questions.templates import VIEW_NAMES, joint_question
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.optimize.guidance import Progress, Views

QUESTION = joint_question("a red cube on top of a blue sphere")
VIEWS = 4


@pytest.fixture
def folder(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the benchmarks, from which their modules are imported."""
    place = repo_root / "benchmarks"
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(place))
    yield place
    for name in set(sys.modules) - before:
        if str(place) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def procedures(folder: Path) -> ModuleType:
    import procedures

    return procedures


@pytest.fixture(scope="module")
def model() -> YesNoModel:
    """The embedded critic with the modules of transformers and two words, as in the released code."""
    weights, cpu = embedded_weights("critic"), torch.device("cpu")
    return YesNoModel(weights, cpu, fast_modules=False, pooled=False)


def test_every_procedure_is_a_config_with_a_unique_name(procedures: ModuleType) -> None:
    names = [procedure.name for procedure in procedures.PROCEDURES]
    assert len(set(names)) == len(names)
    for procedure in procedures.PROCEDURES:
        config = procedure.config()
        assert config.critic.enabled == (procedure.critic is not None and not procedure.released)


def test_the_stages_of_a_procedure_are_its_whole(procedures: ModuleType) -> None:
    for beginning in ("VLM3D,", "threestudio"):
        stages = [p for p in procedures.PROCEDURES if p.name.startswith(beginning)]
        assert sum(stage.share for stage in stages) == 1.0
        assert len({stage.config().train.steps for stage in stages}) == 1
    fractions = [p.released * p.share for p in procedures.PROCEDURES if p.name.startswith("VLM3D,")]
    assert sum(fractions) == 0.5, "the released critic is asked for the first half of the steps"


def test_the_released_critic_agrees_with_ours(
    folder: Path, model: YesNoModel, generator: torch.Generator
) -> None:
    from released import released_log_odds

    views = torch.rand(VIEWS, 64, 64, 3, generator=generator).requires_grad_()
    names = VIEW_NAMES[:VIEWS]
    theirs = released_log_odds(model, views, names, QUESTION)
    ours = model.log_odds(views, names, [QUESTION])[0]
    assert float(theirs.detach()) == pytest.approx(float(ours.detach()), abs=2e-3)
    gradients = [torch.autograd.grad(odds, views)[0] for odds in (theirs, ours)]
    assert_grad_close("of the released way", *gradients)


def test_the_released_critic_moves_towards_yes_until_its_last_step(
    folder: Path, model: YesNoModel, generator: torch.Generator
) -> None:
    from released import ReleasedCritic

    critic = ReleasedCritic(model, QUESTION, size_px=64, until=3)
    due = [critic.is_due(Progress(step, 5)) for step in range(5)]
    assert due == [True, True, True, False, False]
    color = torch.rand(VIEWS, 48, 48, 3, generator=generator).requires_grad_()
    cameras = orbit([0.0, 90.0, 180.0, 270.0], 15.0, 3.2, 40.0, 48, 48)
    output = critic(Views(color, cameras, VIEWS), Progress(0, 5))
    slope = output.color_gradient
    with torch.no_grad():
        nearer = critic(
            Views(color - 1e-2 * slope / slope.abs().max(), cameras, VIEWS), Progress(0, 5)
        )
    assert float(nearer.scalars["log_odds"]) > float(output.scalars["log_odds"])

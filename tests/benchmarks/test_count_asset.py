"""What is counted without computing it is what the same networks do when they compute, and what runs really ask."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlm3d_gs.app.floors import operation_counter
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.critic.questions.templates import VIEW_NAMES, joint_question
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.optimize.guidance import Progress, Views
from vlm3d_gs.optimize.reconstruct import plan_chain
from vlm3d_gs.prior.multiview import join_views

CPU = torch.device("cpu")
QUESTIONS = ("Do these views show a cube?", "Is it sound?")
VIEWS, SIDE_PX = 4, 84


@pytest.fixture(scope="module")
def folder(repo_root: Path) -> Iterator[Path]:
    """The folder of the benchmarks, from which their modules are imported."""
    place = repo_root / "benchmarks"
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        yield place
    for name in set(sys.modules) - before:
        if str(place) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def networks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tiny networks, and their own costs in place of those of large ones."""
    from count_asset import Networks

    return Networks(tmp_path_factory.mktemp("weights"), size="tiny", critic="tiny-qwen")


@pytest.fixture
def quick(networks: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same, each question at the cost of one operation a pass."""
    one = SimpleNamespace(
        denoise=lambda *_: 1,
        **dict.fromkeys(("encode", "decode", "look", "released_look"), lambda *_: (1, 1)),
    )
    for costs in ("prior_costs", "critic_costs"):
        monkeypatch.setattr(networks, costs, lambda _: one)
    return networks


def computed(network: Callable[[Tensor], Tensor], pictures: Tensor) -> tuple[int, int]:
    """Operations of a forward and a backward pass that are really computed, attention by plain products."""
    leaf = pictures.requires_grad_()
    with operation_counter() as counter, sdpa_kernel(SDPBackend.MATH):
        answer = network(leaf.clone())
        forward = counter.get_total_flops()
        torch.autograd.grad(answer.sum(), leaf)
        return forward, counter.get_total_flops() - forward


def test_a_prior_costs_what_it_computes(folder: Path) -> None:
    from random_models import prior_networks
    from stand_ins import PriorCosts

    costs = PriorCosts("mvdream", "tiny")
    unet, vae = (
        network.requires_grad_(False).eval() for network in prior_networks("mvdream", "tiny")
    )
    join_views(unet, VIEWS)
    text, cameras = torch.zeros(8, 77, 32), torch.zeros(8, 16)

    def denoise(noisy: Tensor) -> Tensor:
        return unet(noisy, torch.zeros(8), text, class_labels=cameras).sample

    assert costs.denoise(8, 16, VIEWS) == computed(denoise, torch.zeros(8, 4, 16, 16))[0]
    assert costs.denoise(8, 16, VIEWS) > costs.denoise(8, 16, 1), "each looks at all views"
    encode = computed(lambda x: vae.encode(x).latent_dist.mean, torch.zeros(2, 3, 64, 64))
    assert costs.encode(2, 64) == encode
    assert costs.decode(2, 8) == computed(lambda x: vae.decode(x).sample, torch.zeros(2, 4, 8, 8))


def test_a_look_costs_what_it_computes(networks: Any) -> None:
    model, names = YesNoModel(networks.critic_folder(), CPU), tuple(VIEW_NAMES[:VIEWS])
    views = torch.rand(VIEWS, SIDE_PX, SIDE_PX, 3)
    model.log_odds(views, names, QUESTIONS)  # keeps the text before the first view

    patches = VIEWS * (SIDE_PX // 14) ** 2
    cost = networks.critic_costs(True).look(names, QUESTIONS, (1, *views.shape[:3]), patches)
    assert cost == computed(lambda images: model.log_odds(images, names, QUESTIONS), views)


def test_a_released_look_costs_what_it_computes(networks: Any) -> None:
    from released import ReleasedCritic, released_log_odds
    from stand_ins import Tally, stand_in_for_released_critic

    model = YesNoModel(networks.critic_folder(), CPU, fast_modules=False)
    question, views = joint_question("a red cube"), torch.rand(VIEWS, SIDE_PX, SIDE_PX, 3)
    forward, backward = computed(
        lambda images: released_log_odds(model, images, VIEW_NAMES[:VIEWS], question), views
    )

    tally = Tally()
    stand_in_for_released_critic(model, networks.critic_costs(False), tally)
    critic = ReleasedCritic(model, question, size_px=SIDE_PX, until=1)
    cameras = orbit([0.0, 90.0, 180.0, 270.0], 15.0, 3.2, 40.0, SIDE_PX, SIDE_PX)
    critic(Views(views.detach(), cameras, VIEWS), Progress(0, 1))
    assert tally.operations == {"looks": forward, "looks, backward": backward}
    assert tally.asked == {"looks": 1, "looks, backward": 1}


def test_a_backward_pass_is_entered_when_it_happens(folder: Path) -> None:
    from stand_ins import Tally

    tally = Tally()
    leaf = torch.ones(2, requires_grad=True)
    answer = 2.0 * leaf
    tally.enter("looks", 3, (10, 7), answer)
    tally.enter("looks", 1, (5, 5), leaf.detach())
    assert tally.asked == {"looks": 4}
    answer.sum().backward()
    assert tally.asked == {"looks": 4, "looks, backward": 3}
    assert tally.operations == {"looks": 15, "looks, backward": 7}

    with tally.asked_by(" of somebody"):
        tally.add("looks", 1, 1)
    twice = tally.scaled(2).plus(tally)
    assert twice.asked == {"looks": 12, "looks, backward": 9, "looks of somebody": 3}


def test_a_reconstruction_asks_what_its_schedule_says(quick: Any, tmp_path: Path) -> None:
    from count_asset import count_procedure
    from procedures import Procedure, ours

    changes = {"train__steps": 40, "camera__resolution_px": 64, "prior__size_px": 64}
    changes |= {"reconstruct__fit_steps": 5, "reconstruct__candidates": 3, "critic__size_px": 56}
    procedure = Procedure("ours", ours("mvdream", critic=True, **changes), "tiny-qwen")
    asked = count_procedure(procedure, quick, tmp_path / "run").asked

    config = procedure.config()
    begins = range(0, round(config.reconstruct.until * 40), 5)
    plans = [plan_chain(config, Progress(step, 40), first=step == 0) for step in begins]
    distilled = (40 - 36) // (1 + config.reconstruct.fits_between)
    chains = sum(plan.steps for plan in plans) * 3
    assert asked["evaluations"] == 2 * VIEWS * (chains + distilled)
    assert asked["encodes"] == VIEWS * (len(plans) + distilled)
    assert asked["encodes, backward"] == VIEWS * distilled
    assert asked["decodes"] == 3 * VIEWS * len(plans)
    # The choice, and the gradient at each 15th step; readings at each fifth of the run, three views each.
    assert asked["looks, backward"] == 3
    assert asked["looks"] == 3 * len(plans) + 3
    assert asked["looks of the watch"] == 5 * 3


def test_the_released_schedule_is_counted_in_full(quick: Any, tmp_path: Path) -> None:
    from count_asset import CASES, VLM3D, as_row, count_case

    (case,) = (case for case in CASES if case.name == VLM3D)
    tally = count_case(case, quick, tmp_path)
    renders = 5000 * 8 + 15_000 * 4
    row = as_row(case, tally, {VLM3D: tally})
    assert row["evaluations"] == 2 * renders
    assert row["encodes"] == row["encodes_with_gradient"] == renders
    assert row["looks"] == row["looks_with_gradient"] == 10_000
    assert row["decodes"] == 0
    assert row["of_vlm3d"] == 1.0
    assert as_row(replace(case, name="half"), tally.scaled(0.5), {VLM3D: tally})["of_vlm3d"] == 0.5


def test_microdreamer_is_asked_as_its_scheduler_says(folder: Path) -> None:
    from procedures import microdreamer_rounds

    down = DDIMScheduler(clip_sample=False, steps_offset=1, set_alpha_to_one=False)
    up = DDIMInverseScheduler.from_config(down.config)
    for scheduler in (down, up):
        scheduler.set_timesteps(10)

    expected = [(0, 10)]
    for number in range(30):
        level = down.timesteps[
            int(number / 30 * (10 * (1 - 0.4) - 10 * (1 - 0.8)) + 10 * (1 - 0.8))
        ]
        noised = up.timesteps[int(level / 1000 * 10 * 0.6)]
        nexts = up.timesteps[1:]
        expected.append(
            (int(((nexts > noised) & (nexts <= level)).sum()), int((down.timesteps <= level).sum()))
        )
    assert microdreamer_rounds() == expected
    assert [sum(column) for column in zip(*expected, strict=True)] == [77, 208]


def test_every_case_is_made_of_known_stages(folder: Path) -> None:
    from count_asset import CASES
    from procedures import PROCEDURES

    known = {procedure.name: procedure for procedure in PROCEDURES}
    for case in CASES:
        assert set(case.stages) <= set(known)
        assert len(case.measured) <= 80, "longer ones are cut in the table"
        if case.stages:
            assert sum(known[stage].share for stage in case.stages) == 1.0
    assert known["mvdream"].config().train.loop == "reconstruct"

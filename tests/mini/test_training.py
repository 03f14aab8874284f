"""The training loop: it learns, resumes, and publishes averaged weights; batches follow from seed and step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.prompts import COLORS, SHAPES, parse_composition
from vlm3d_gs.mini.critic.data import DAMAGE_CLASSES, sample_critic_batch
from vlm3d_gs.mini.prior.data import sample_batch, step_rng
from vlm3d_gs.mini.training import Scalars, TrainingPlan, batches, fit, load_averaged
from vlm3d_gs.mini.world.damage_images import DAMAGES, damaged, with_floaters
from vlm3d_gs.mini.world.examples import sample_examples
from vlm3d_gs.mini.world.scenes import build_scene, canonical, render_rgba, sample_composition


def draw(step: int) -> torch.Tensor:
    return torch.from_numpy(step_rng(0, step).normal(size=(32, 3))).float()


def train(folder: Path, steps: int, workers: int = 0) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(x: torch.Tensor, step: int) -> tuple[torch.Tensor, Scalars]:
        error = (model(x)[:, 0] - x[:, 0] * 0.5).square().mean()
        return error, {"seen": float(step)}

    plan = TrainingPlan(
        steps=steps, lr=5e-3, warmup_steps=5, decay_fraction=0.0, ema_decay=0.9, workers=workers
    )
    fit({"model": model}, draw, loss, plan, folder, lambda line: None)
    return model


def error(model: nn.Module) -> float:
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    return (model(x)[:, 0] - x[:, 0] * 0.5).square().mean().item()


def test_training_lowers_the_loss_and_publishes_the_average(tmp_path: Path) -> None:
    model = train(tmp_path, 300)
    assert error(model) < 0.1 * error(train(tmp_path / "other", 1))
    again = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    assert load_averaged({"model": again}, tmp_path)
    assert torch.equal(again[0].weight, model[0].weight)
    assert not load_averaged({"model": again}, tmp_path / "nowhere")


def test_a_resumed_training_equals_an_uncut_one(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 40)
    train(tmp_path / "cut", 15)
    resumed = train(tmp_path / "cut", 40)
    for first, second in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)


def test_the_learning_rate_falls_with_steps_or_with_the_clock() -> None:
    plan = TrainingPlan(steps=100, lr=1.0, warmup_steps=10, decay_fraction=0.5, limit_s=60.0)
    assert plan.lr_at(0) == pytest.approx(0.1)
    assert plan.lr_at(30) == 1.0
    assert plan.lr_at(75) == pytest.approx(0.5)
    assert plan.lr_at(30, elapsed_s=45.0) == pytest.approx(0.5)
    assert plan.lr_at(99, elapsed_s=60.0) == pytest.approx(0.02)


def test_a_training_ends_when_its_time_is_up_and_keeps_what_it_learnt(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    plan = TrainingPlan(steps=1000, lr=1e-3, limit_s=1e-9)
    losses: list[int] = []

    def loss(x: torch.Tensor, step: int) -> tuple[torch.Tensor, Scalars]:
        losses.append(step)
        return model(x).square().mean(), {}

    fit({"model": model}, draw, loss, plan, tmp_path, lambda line: None)
    assert losses == [0]
    assert load_averaged({"model": model}, tmp_path)


def test_worker_processes_draw_the_same_batches_in_order() -> None:
    here, there = (list(batches(draw, 3, 9, workers)) for workers in (0, 2))
    assert len(here) == 6
    for first, second in zip(here, there, strict=True):
        assert torch.equal(first, second)
    assert torch.equal(here[0], draw(3))
    assert list(batches(draw, 4, 4, 2)) == []


def test_batches_repeat_for_a_seed_and_step_and_differ_otherwise() -> None:
    first, same, other = (sample_batch(step_rng(0, step), 2) for step in (5, 5, 6))
    assert torch.equal(first.color, same.color)
    assert first.prompts == same.prompts
    assert not torch.equal(first.color, other.color)
    assert first.camera_matrices.shape == (8, 16)


def test_examples_are_true_or_false_as_they_say() -> None:
    """Each statement is parsed again and compared with the scene."""
    rng = step_rng(1, 0)
    answers, kinds = [], set()
    for _ in range(300):
        composition = sample_composition(rng, None, None)
        present = {str(item) for item in composition.objects}
        for example in sample_examples(composition, rng, 6):
            kinds.add(example.kind)
            answers.append(example.answer)
            if example.text.startswith("Do these views show"):
                stated = example.text.removeprefix("Do these views show ").partition("?")[0]
                truth = canonical(parse_composition(stated)) == canonical(composition)
            elif example.text.startswith("Is there"):
                truth = str(
                    parse_composition(example.text.removeprefix("Is there ").partition("?")[0])
                ) in {str(parse_composition(f"a {item}")) for item in present}
            else:
                stated = example.text.partition("is the ")[2].partition("?")[0]
                truth = canonical(parse_composition(stated)) == canonical(composition)
            assert truth == example.answer, (str(composition), example)
    assert {
        "content",
        "object",
        "relation",
        "color",
        "shape",
        "swapped colors",
        "swapped objects",
    } <= kinds
    assert 0.45 < sum(answers) / len(answers) < 0.55


@pytest.mark.parametrize("kind", ["holes", "noise", "blur", "haze"])
def test_damage_changes_the_views_and_keeps_them_pictures(kind: str) -> None:
    cameras = orbit([0.0, 90.0], 15.0, 3.0, 40.0, 64, 64)
    scene = build_scene(parse_composition("a red cube"))
    rgba = torch.from_numpy(render_rgba([scene], cameras)[0][0])
    out = damaged(rgba, kind, step_rng(2, 0))
    assert (out - rgba).abs().mean() > 3e-3
    assert 0.0 <= float(out.min()) <= float(out.max()) <= 1.001


def test_floaters_come_after_the_real_objects() -> None:
    scene = build_scene(parse_composition("a red cube"))
    more = with_floaters(scene, step_rng(3, 0))
    assert more.objects[0] == scene.objects[0]
    assert len(more.objects) > 3
    assert all(item.size < 0.1 for item in more.objects[1:])


def test_token_labels_say_what_the_tokens_show() -> None:
    seen = set()
    for step in range(6):
        batch = sample_critic_batch(step_rng(4, step), 4, 3, n_views=4)
        labels = batch.labels
        cells = batch.images.flatten(0, 1).unflatten(1, (8, 8)).unflatten(3, (8, 8)).mean((2, 4))
        for s, scene in enumerate(batch.scenes):
            caption = str(scene.composition)
            composition = parse_composition(caption)
            rows = slice(4 * s, 4 * s + 4)
            shapes = set(labels.shape[rows].unique().tolist()) - {0}
            assert shapes <= {1 + SHAPES.index(item.shape) for item in composition.objects}
            for item in composition.objects:
                mine = labels.color[rows] == 1 + COLORS.index(item.color)
                if labels.damage[4 * s] == 0 and item.color == "red" and mine.any():
                    red = cells[rows].flatten(1, 2)[mine]
                    assert red[:, 0].mean() > red[:, 2].mean()
            seen.add(DAMAGE_CLASSES[labels.damage[4 * s]])
            if composition.relation == "to the left of" and batch.view_indices[0] == 0:
                left = labels.color[4 * s] == 1 + COLORS.index(composition.objects[0].color)
                assert (labels.offset[4 * s][left][:, 0] > 0).all()
    assert seen - {"none"} <= set(DAMAGES)
    assert "none" in seen

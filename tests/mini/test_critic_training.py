"""What supervises the critic and the prior's cameras in training: labels, read-outs, pictures of splats."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vlm3d_gs.core.cameras import mvdream_camera_matrices, orbit
from vlm3d_gs.core.prompts import COLORS, parse_composition
from vlm3d_gs.mini.critic.data import DAMAGE_CLASSES, sample_critic_batch
from vlm3d_gs.mini.critic.heads import PhraseHeads, PhraseLabels, WorldHead, noun_phrases
from vlm3d_gs.mini.critic.model import critic_tokenizer, new_critic
from vlm3d_gs.mini.critic.routes import (
    COLOR_HEAD,
    GATHER_LAYER,
    NAME_HEAD,
    POINT_HEAD,
    POINT_LAYER,
    name_positions,
    route_loss,
    visible_objects,
)
from vlm3d_gs.mini.critic.sequences import token_sequences
from vlm3d_gs.mini.critic.train import (
    CriticDraw,
    CriticLoss,
    answer_weights,
    encode_views,
    read_sequences,
    train_critic,
)
from vlm3d_gs.mini.prior.data import step_rng
from vlm3d_gs.mini.prior.train import new_prior
from vlm3d_gs.mini.training import TrainingPlan
from vlm3d_gs.mini.world.damage_images import DAMAGES
from vlm3d_gs.mini.world.scenes import build_scene, render_rgba
from vlm3d_gs.mini.world.splat_images import changed_pixels, splat_views
from vlm3d_gs.mini.world.splats import damage, scene_to_gaussians

CAMERAS = orbit([0.0, 90.0, 180.0, 270.0], 15.0, 3.05, 40.0, 64, 64)


def test_noun_phrases_are_found_with_what_they_refer_to() -> None:
    tokenizer = critic_tokenizer()
    scene = build_scene(parse_composition("a red cube on top of a blue sphere"))
    text = "Do these views show a red box above a blue cone? Answer Yes or No."
    ids = tokenizer(text, add_special_tokens=False).input_ids
    found = noun_phrases(tokenizer, ids, scene)
    words = tokenizer.convert_ids_to_tokens(ids)
    assert [words[phrase.place] for phrase in found] == ["box", "cone"]
    assert [phrase.exists for phrase in found] == [True, False]
    cube, sphere = scene.objects
    assert found[0].center == cube.center
    assert found[0].offset[2] == pytest.approx(sphere.center[2] - cube.center[2])
    assert found[0].offset[2] < 0.0
    assert found[1].offset == (0.0, 0.0, 0.0)


def test_world_offsets_lead_from_one_object_to_the_other_in_every_view() -> None:
    batch = sample_critic_batch(step_rng(6, 1), 6, 2, n_views=4)
    checked = 0
    for s, scene in enumerate(batch.scenes):
        for k, item in enumerate(scene.objects if len(scene.objects) == 2 else ()):
            mine = batch.labels.color[4 * s : 4 * s + 4] == 1 + COLORS.index(item.color)
            offsets = batch.labels.world_offset[4 * s : 4 * s + 4][mine]
            expected = torch.tensor(scene.objects[1 - k].center) - torch.tensor(item.center)
            torch.testing.assert_close(offsets, expected.expand_as(offsets))
            checked += len(offsets)
    assert checked > 20


def test_read_outs_fall_with_their_error_and_follow_their_places() -> None:
    hidden = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    labels = PhraseLabels(
        torch.tensor([0, 1]),
        torch.tensor([3, 1]),
        torch.tensor([1.0, 0.0]),
        torch.zeros(2, 3),
        torch.tensor([[0.0, -0.8, 0.0], [0.0, 0.0, 0.0]]),
        torch.tensor([0, 0]),
    )
    heads = PhraseHeads(8)
    loss, _ = heads(hidden, hidden, labels)
    moved = hidden.clone()
    moved[0, 0] += 1.0
    assert torch.equal(heads(moved, moved, labels)[0], loss)
    moved[1, 1] = -moved[1, 1]
    assert heads(moved, hidden, labels)[0] != loss
    assert heads(hidden, moved, labels)[0] == loss, (
        "no offset is supervised where an object is missing"
    )
    with torch.no_grad():
        for head, value in ((heads.center, 0.5), (heads.offset, 0.1)):
            head.weight.zero_()
            head.bias.fill_(value)
    scalars = heads(hidden, hidden, labels)[1]
    assert scalars["phrase place"] == pytest.approx(1.5)
    assert scalars["phrase offset"] == pytest.approx(0.1 + 0.9 + 0.1)


def test_the_world_head_counts_only_tokens_with_another_object() -> None:
    batch = sample_critic_batch(step_rng(6, 2), 4, 2, n_views=4)
    head = WorldHead(8)
    with torch.no_grad():
        head.offset.weight.zero_()
        head.offset.bias.zero_()
    error, _ = head(torch.randn(16, 64, 8), batch)
    paired = (batch.labels.shape > 0) & (batch.labels.other_shape > 0)
    lengths = batch.labels.world_offset[paired].abs().sum(-1)
    assert float(error.detach()) == pytest.approx(float(lengths.mean()), rel=1e-5)


def test_whole_splats_look_like_the_scene_and_damaged_ones_less() -> None:
    scene = build_scene(parse_composition("a red cube to the left of a blue sphere"))
    true = torch.from_numpy(render_rgba([scene], CAMERAS)[0][0])
    errors = {
        kind: np.mean(
            [
                float((splat_views(scene, kind, CAMERAS, step_rng(7, n))[0] - true).abs().mean())
                for n in range(4)
            ]
        )
        for kind in ("none", *DAMAGES)
    }
    assert errors["none"] < 0.02
    assert all(errors[kind] > 1.2 * errors["none"] for kind in DAMAGES), errors


def test_every_damage_can_be_seen() -> None:
    scene = build_scene(parse_composition("a red cube behind a blue sphere"))
    front = CAMERAS.select([0])
    for kind in DAMAGES:
        for n in range(6):
            spoiled, whole = splat_views(scene, kind, front, step_rng(9, n))
            assert int(changed_pixels(spoiled, whole).sum()) >= 24, (kind, n)
            assert torch.equal(whole, splat_views(scene, "none", front, step_rng(9, n))[0])


def test_tokens_are_marked_where_damage_shows() -> None:
    marked = 0
    for step in range(4):
        batch = sample_critic_batch(step_rng(10, step), 6, 2, n_views=4)
        spoiled = batch.labels.spoiled.reshape(6, 4, 64)
        for s, kind in enumerate(batch.labels.damage[::4].tolist()):
            if kind == 0:
                assert not spoiled[s].any()
            elif (spoiled[s] >= 0).all():
                assert (spoiled[s] > 0).any(), DAMAGE_CLASSES[kind]
                marked += 1
    assert marked > 3


def test_a_recoloured_side_never_is_one_object_of_two() -> None:
    scene = build_scene(parse_composition("a red cube to the left of a blue sphere"))
    gaussians = scene_to_gaussians(scene, 600, torch.Generator().manual_seed(0))
    near_cube = gaussians.means[:, 1] * scene.objects[0].center[1] > 0
    for seed in range(20):
        spoiled = damage(gaussians, "inconsistent", 1.0, torch.Generator().manual_seed(seed))
        if len(spoiled) != len(gaussians):
            continue
        changed = (spoiled.sh != gaussians.sh).flatten(1).any(1)
        shares = [float(changed[part].float().mean()) for part in (near_cube, ~near_cube)]
        assert any(0.05 < share < 0.95 for share in shares), (seed, shares)


def test_a_fresh_camera_embedding_turns_four_times_a_round() -> None:
    unet = new_prior(0).unet
    azimuths = torch.arange(0.0, 360.0, 5.0)
    ring = orbit(azimuths, 15.0, 3.05, 40.0, 64, 64)
    with torch.no_grad():
        embedded = unet.class_embedding(mvdream_camera_matrices(ring).flatten(1).float())
    power = np.abs(np.fft.rfft(embedded.numpy(), axis=0)) ** 2
    share = power.sum(1)[4] / power.sum(1)[1:].sum()
    assert share > 0.02
    assert math.isfinite(share)


def test_a_training_runs_through_its_stages_and_moves_both_parts(tmp_path: Path) -> None:
    lines: list[str] = []
    plan = TrainingPlan(steps=3, lr=1e-3, warmup_steps=1, scenes_per_step=1)
    start = new_critic(0)[0].state_dict()
    model, _ = train_critic(tmp_path, "cpu", 0, lines.append, plan)
    assert "looks at object" in lines[-1]
    assert "view damage" in lines[-1]
    assert "no joint" in lines[-1] or "yes joint" in lines[-1]
    moved = {name for name, value in model.state_dict().items() if not value.equal(start[name])}
    assert any("visual" in name for name in moved)
    assert any("language_model.layers.5" in name for name in moved)


@pytest.mark.parametrize(
    ("step", "tower", "language"), [(0, True, False), (3, False, True), (6, True, True)]
)
def test_who_learns_when(step: int, tower: bool, language: bool) -> None:
    model, tokenizer = new_critic(0)
    objective = CriticLoss(model, tokenizer, together_from=5)
    value, _ = objective(CriticDraw(0, 1, alone_until=2)(step), step)
    value.backward()
    assert (model.model.visual.blocks[0].attn.qkv.weight.grad is not None) == tower
    assert (model.model.language_model.layers[0].mlp.up_proj.weight.grad is not None) == language


def test_answers_about_quality_count_more() -> None:
    views = sample_critic_batch(step_rng(8, 3), 3, 8, n_views=4)
    weights = answer_weights(views).tolist()
    kinds = [example.kind for examples in views.examples for example in examples]
    assert len(weights) == len(kinds)
    assert {kind for kind, weight in zip(kinds, weights, strict=True) if weight > 1.0} == {
        "geometry",
        "joint",
    }


def test_routes_are_cheap_where_attention_goes_and_dear_elsewhere() -> None:
    batch = sample_critic_batch(step_rng(8, 3), 2, 8, n_views=4)
    model, tokenizer = new_critic(0)
    model.model.language_model.config._attn_implementation = "eager"
    read = read_sequences(model, encode_views(model, batch)[0], token_sequences(tokenizer, batch))
    phrases, places = read.sequences.phrases, read.image_mask
    visible = visible_objects(batch)
    right = [torch.full_like(layer, 1e-6) for layer in read.attentions]
    columns = places[0].nonzero()[:, 0]
    for row, place, index in zip(
        phrases.row.tolist(), phrases.place.tolist(), phrases.index.tolist(), strict=True
    ):
        right[GATHER_LAYER][row, COLOR_HEAD, place, place - 1] = 1.0
        mine = columns[visible[row, index]]
        right[POINT_LAYER][row, POINT_HEAD, place, mine] = 1.0 / max(1, len(mine))
    words = tokenizer.convert_ids_to_tokens(read.sequences.input_ids[0].tolist())
    at = name_positions(read.sequences.input_ids[0], columns[::64], tokenizer)
    assert [words[place] for place in at] == ["front", "right", "back", "left"]
    for view in range(4):
        rows = columns[64 * view : 64 * view + 64]
        right[GATHER_LAYER][:, NAME_HEAD, rows, at[view]] = 1.0
    ids = read.sequences.input_ids
    good, scalars = route_loss(tuple(right), ids, places, phrases, batch, tokenizer)
    bad, _ = route_loss(read.attentions, ids, places, phrases, batch, tokenizer)
    assert abs(float(good)) < 1e-2
    assert scalars["looks at object"] == pytest.approx(1.0, abs=1e-3)
    assert float(bad.detach()) > 5.0


def test_image_tokens_show_the_object_that_the_labels_name() -> None:
    batch = sample_critic_batch(step_rng(8, 4), 6, 2, n_views=4)
    visible = visible_objects(batch)
    seen = (batch.labels.shape > 0).reshape(6, -1)
    assert torch.equal(visible.any(1), seen)
    assert not (visible[:, 0] & visible[:, 1]).any()
    assert visible.any(-1).sum() > 6

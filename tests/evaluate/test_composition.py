"""evaluate.composition: right on perfect scenes, not taken in by wrong, damaged or empty ones."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch

from scenes import mirrored, scene_for, splats, splats_for, swapped, with_object
from vlm3d_gs.core.errors import PromptError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.harmonics import rgb_to_sh0, sh0_to_rgb
from vlm3d_gs.core.prompts import COLORS, RELATIONS, SHAPES, Composition, ObjectPhrase
from vlm3d_gs.evaluate.composition import evaluate
from vlm3d_gs.mini.world.scenes import SceneSpec
from vlm3d_gs.mini.world.splats import damage

PROMPT = "a red cube to the left of a cyan torus"


def random_pair(rng: random.Random, relation: str) -> str:
    first, second = rng.sample(COLORS, 2)
    phrases = (ObjectPhrase(first, rng.choice(SHAPES)), ObjectPhrase(second, rng.choice(SHAPES)))
    return str(Composition(phrases, relation))


@pytest.mark.parametrize(
    ("prompt", "axis", "sign"),
    [
        ("a white cone on top of a purple cylinder", 2, 1),
        ("a green sphere to the right of an orange cube", 1, 1),
        ("a blue torus behind a yellow cone", 0, -1),
    ],
)
def test_perfect_pairs_are_right_and_clean(prompt: str, axis: int, sign: int) -> None:
    scene = scene_for(prompt, seed=3)
    report = evaluate(splats(scene), prompt)
    assert report.ok, report.reasons
    assert report.relation_right
    assert report.reasons == ()
    assert report.displacement is not None
    assert sign * report.displacement[axis] > 0.4
    for found, truth in zip(report.objects, scene.objects, strict=True):
        assert found.center == pytest.approx(truth.center, abs=0.05)
        assert found.best_shape == truth.shape
    assert report.foreign_fraction < 0.01


def test_perfect_single_is_right_and_report_is_plain_data() -> None:
    report = evaluate(splats_for("an orange cylinder"), "an orange can")
    assert report.ok, report.reasons
    assert report.relation is None
    assert report.relation_right is None
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["ok"] is True
    assert plain["prompt"] == "an orange cylinder"
    assert set(plain["objects"][0]["overlap"]) == set(SHAPES)
    assert len(plain["views"]) == 38


def test_left_is_where_the_front_camera_sees_left() -> None:
    scene = scene_for(PROMPT)
    left, right = (item.center[1] for item in scene.objects)
    assert left < right  # smaller y
    report = evaluate(splats(swapped(scene)), PROMPT)
    assert not report.content_right
    assert report.relation_right is False
    assert all(item.right for item in report.objects)
    assert "not to the left of" in report.reasons[0]


def test_mirrored_scene_has_the_wrong_relation() -> None:
    report = evaluate(splats(mirrored(scene_for(PROMPT))), PROMPT)
    assert report.relation_right is False


def test_missing_object_is_named() -> None:
    scene = scene_for(PROMPT)
    report = evaluate(splats(SceneSpec(scene.objects[:1])), PROMPT)
    assert not report.content_right
    assert not report.objects[1].found
    assert report.objects[0].right
    assert any(reason.startswith("no cyan torus") for reason in report.reasons)


def test_wrong_shape_is_named() -> None:
    scene = with_object(scene_for(PROMPT), 0, shape="cylinder")
    report = evaluate(splats(scene), PROMPT)
    assert not report.content_right
    assert report.objects[0].best_shape == "cylinder"
    assert any("red cube: looks like a cylinder" in reason for reason in report.reasons)


def test_swapped_colours_are_wrong_even_though_both_are_there() -> None:
    first, second = scene_for(PROMPT).objects
    scene = SceneSpec((replace(first, color=second.color), replace(second, color=first.color)), "x")
    report = evaluate(splats(scene), PROMPT)
    assert all(item.found for item in report.objects)
    assert not any(item.shape_right for item in report.objects)
    assert not report.content_right


def test_wrong_colour_is_foreign_and_missing() -> None:
    report = evaluate(splats(with_object(scene_for(PROMPT), 1, color="green")), PROMPT)
    assert not report.objects[1].found
    assert report.foreign_fraction > 0.15
    assert "green" in report.color_shares


def test_grey_haze_is_neither_clean_nor_named() -> None:
    hazy = damage(splats_for(PROMPT), "haze", 0.5, torch.Generator().manual_seed(1))
    report = evaluate(hazy, PROMPT)
    assert not report.clean
    assert report.foreign_fraction > 0.1


def test_floaters_are_counted() -> None:
    report = evaluate(
        damage(splats_for(PROMPT), "floaters", 0.5, torch.Generator().manual_seed(1)), PROMPT
    )
    assert not report.clean
    assert report.floater_fraction > 0.02
    assert any("floating" in reason for reason in report.reasons)


def test_soft_and_jittered_surfaces_keep_their_shapes() -> None:
    prompt = "a red cube on top of a blue sphere"
    scene = splats_for(prompt)
    generator = torch.Generator().manual_seed(1)
    jittered = {
        **scene.parameters(),
        "means": scene.means + 0.02 * torch.randn(scene.means.shape, generator=generator),
        "log_scales": scene.log_scales + 0.4,
    }
    report = evaluate(Gaussians.from_parameters(jittered), prompt)
    assert report.content_right, report.reasons


def test_a_blurred_shape_may_not_stick_out_of_what_hides_its_rest() -> None:
    """Only the tip of a sphere could explain a blurred cone that stands on another object."""
    prompt = "a yellow cone on top of a red sphere"
    blurred = damage(splats_for(prompt), "blur", 0.6, torch.Generator())
    report = evaluate(blurred, prompt)
    assert report.content_right, report.reasons


def test_bites_are_dents_even_where_the_far_wall_shows() -> None:
    bitten = damage(splats_for("a yellow sphere"), "holes", 1.0, torch.Generator().manual_seed(3))
    report = evaluate(bitten, "a yellow sphere")
    assert report.objects[0].dent_share > 0.1
    assert not report.clean


def test_dark_grey_is_not_white() -> None:
    scene = splats_for("a white cube")
    dark = {**scene.parameters(), "sh": rgb_to_sh0(0.45 * sh0_to_rgb(scene.sh))}
    report = evaluate(Gaussians.from_parameters(dark), "a white cube")
    assert not report.objects[0].color_right
    assert "brightness" in report.reasons[0]


def test_empty_scene_is_simply_not_right() -> None:
    nothing = splats_for("a red cube").select(torch.zeros(2500, dtype=torch.bool))
    report = evaluate(nothing, "a red cube")
    assert not report.content_right
    assert report.color_shares == {}
    assert report.foreign_fraction == 0.0


def test_prompts_outside_the_mini_world_are_refused() -> None:
    with pytest.raises(PromptError, match="dragon"):
        evaluate(splats_for("a red cube"), "a red dragon")


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_in_every_colour_is_right(shape: str) -> None:
    for seed, color in enumerate(COLORS):
        report = evaluate(splats_for(f"{color} {shape}", seed), f"{color} {shape}")
        assert report.ok, report.reasons


@pytest.mark.slow
@pytest.mark.parametrize("relation", RELATIONS)
def test_random_pairs_are_right_and_their_perversions_wrong(relation: str) -> None:
    rng = random.Random(relation)
    for seed in range(3):
        prompt = random_pair(rng, relation)
        scene = scene_for(prompt, seed)
        first, second = scene.objects
        right = evaluate(splats(scene), prompt)
        assert right.ok, right.reasons
        other_shape = rng.choice([name for name in SHAPES if name != second.shape])
        wrong = {
            "swapped": swapped(scene),
            "missing": SceneSpec((first,)),
            "other shape": with_object(scene, 1, shape=other_shape),
            "binding": SceneSpec(
                (replace(first, color=second.color), replace(second, color=first.color))
            ),
        }
        for name, spoiled in wrong.items():
            assert not evaluate(splats(spoiled), prompt).content_right, (name, prompt)

"""The weights in the package: small enough, in the published layouts, and trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.prompts import RELATIONS, parse_composition
from vlm3d_gs.critic.questions.templates import GEOMETRY_QUESTION, VIEW_NAMES, content_question
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.mini.measure import measure_codec
from vlm3d_gs.mini.world.damage_images import damaged
from vlm3d_gs.mini.world.recognize import Recognizer
from vlm3d_gs.mini.world.scenes import build_scene, canonical, render_rgba, sample_composition
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.prior.loading.pipeline import load_denoiser
from vlm3d_gs.prior.loading.text import embed_texts
from vlm3d_gs.prior.sampling import sample_views

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    return orbit([0.0, 90.0, 180.0, 270.0], 15.0, 3.05, 40.0, 64, 64)


def test_all_weights_together_stay_small() -> None:
    root = embedded_weights("prior").parent
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) <= 40 * 2**20


def test_codec_gives_pictures_back() -> None:
    assert measure_codec(load_denoiser(embedded_weights("prior"), CPU), 16)["psnr_db"] >= 30.0


@pytest.mark.parametrize("n_objects", [1, 2])
def test_the_reader_of_views_reads_true_pictures(cameras: Cameras, n_objects: int) -> None:
    """Ground truth goes in; so a low score of the prior is the prior's."""
    recognize, rng, right = Recognizer(cameras, n_objects), np.random.default_rng(7), 0
    for _ in range(6):
        composition = sample_composition(rng, n_objects, None)
        rgba = torch.from_numpy(render_rgba([build_scene(composition, rng)], cameras)[0][0])
        views = rgba[..., :3] + (1.0 - rgba[..., 3:]) * torch.from_numpy(rng.random(3)).float()
        right += recognize(views) == canonical(composition)
    assert right >= 5


def test_prior_draws_what_it_is_told(cameras: Cameras) -> None:
    prompts = ["a green cone", "a white sphere", "a blue cylinder", "a red cube"]
    denoiser = load_denoiser(embedded_weights("prior"), CPU)
    texts = embed_texts(embedded_weights("prior"), ["", *prompts], CPU)
    views = sample_views(denoiser, texts, cameras, torch.Generator().manual_seed(0), steps=10)
    recognize = Recognizer(cameras, 1)
    right = [
        recognize(shown) == parse_composition(prompt)
        for shown, prompt in zip(views, prompts, strict=True)
    ]
    assert sum(right) >= 3, right


def pictures(text: str, cameras: Cameras) -> torch.Tensor:
    rgba = render_rgba([build_scene(parse_composition(text))], cameras)[0][0]
    return torch.from_numpy(rgba)


def test_critic_prefers_the_right_colour_and_a_clean_scene(cameras: Cameras) -> None:
    critic = YesNoModel(embedded_weights("critic"), CPU)
    rgba = pictures("a green cone", cameras)
    questions = [
        content_question("a green cone"),
        content_question("a red cone"),
        GEOMETRY_QUESTION,
    ]
    noisy = damaged(rgba, "noise", np.random.default_rng(0))
    with torch.inference_mode():
        clean, dirty = (
            critic.log_odds(views[..., :3] + (1.0 - views[..., 3:]) * 0.5, VIEW_NAMES, questions)
            for views in (rgba, noisy)
        )
    assert clean[0] > clean[1] + 1.0
    assert clean[2] > dirty[2]


def test_critic_tells_a_relation_from_its_opposite(cameras: Cameras) -> None:
    critic = YesNoModel(embedded_weights("critic"), CPU)
    right = []
    for relation in RELATIONS:
        views = pictures(f"a red cube {relation} a blue sphere", cameras)
        questions = [
            content_question(f"a red cube {relation} a blue sphere"),
            content_question(f"a blue sphere {relation} a red cube"),
        ]
        with torch.inference_mode():
            shown = views[..., :3] + (1.0 - views[..., 3:]) * 0.5
            odds = critic.log_odds(shown, VIEW_NAMES, questions)
        right.append(bool(odds[0] > 0.0 > odds[1]))
    assert sum(right) >= 5, dict(zip(RELATIONS, right, strict=True))


def test_layouts_are_the_published_ones() -> None:
    prior, critic = embedded_weights("prior"), embedded_weights("critic")
    for name in (
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
    ):
        assert (prior / name).is_file()
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        assert (critic / name).is_file()
    assert (Path(prior).parent / "README.md").is_file()

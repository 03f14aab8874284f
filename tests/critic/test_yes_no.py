"""Three families of Qwen-VL: packed questions get the answers of the published model to the whole message."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from gradients import assert_grad_close
from published_answers import reference_log_odds
from vlm3d_gs.config import CriticConfig
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError, DeviceError
from vlm3d_gs.critic.guidance import Critic
from vlm3d_gs.critic.questions.templates import (
    GEOMETRY_QUESTION,
    VIEW_NAMES,
    Question,
    content_question,
)
from vlm3d_gs.critic.qwen.loading import MODEL_TYPES
from vlm3d_gs.critic.qwen.preprocess import as_grid
from vlm3d_gs.critic.qwen.yes_no import YesNoModel, answer_ids
from vlm3d_gs.mini.critic.model import critic_tokenizer, new_critic, save_processor
from vlm3d_gs.optimize.guidance import Progress, Views

CPU = torch.device("cpu")
QUESTIONS = [content_question("a red cube"), GEOMETRY_QUESTION, content_question("a green cone")]
SIDE = 32
"""Sixteen patches of 8 px; with merging by 2 four tokens a view, without sixteen."""


def untrained(kind: str) -> Any:
    """A very small model of a family, in the arrangement that the embedded critic's tokenizer fits."""
    if kind == "qwen2_5_vl":
        return new_critic(3)[0]
    tokenizer = critic_tokenizer()
    ids = {
        name: tokenizer.convert_tokens_to_ids(name)
        for name in ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    }
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3],
        },
    }
    shared = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,
    }
    torch.manual_seed(3)
    if kind == "qwen2_vl":
        vision = {
            "depth": 2,
            "embed_dim": 48,
            "hidden_size": 48,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 8,
            "spatial_merge_size": 1,
            "temporal_patch_size": 2,
        }
        return Qwen2VLForConditionalGeneration(
            Qwen2VLConfig(text_config=text, vision_config=vision, **shared)
        )
    vision = {
        "depth": 3,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_heads": 2,
        "patch_size": 8,
        "spatial_merge_size": 1,
        "temporal_patch_size": 2,
        "out_hidden_size": 48,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    text |= {"head_dim": 16}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, **shared)
    )


@pytest.fixture(scope="module", params=sorted(MODEL_TYPES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    model = untrained(request.param)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            parameter.data *= 4.0
    model.save_pretrained(path)
    save_processor(path, critic_tokenizer())
    return path


def model_of(folder: Path, **ways: Any) -> YesNoModel:
    """The network of transformers; tests/critic/test_small.py compares our own with it."""
    return YesNoModel(folder, CPU, runtime="transformers", **ways)


def views(count: int = 3) -> torch.Tensor:
    return torch.rand(count, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(1))


def test_packed_questions_are_answered_as_by_the_whole_model(folder: Path) -> None:
    images = views().requires_grad_()
    together = model_of(folder).log_odds(images, VIEW_NAMES[:3], QUESTIONS)
    alone = torch.stack([reference_log_odds(folder, images, question) for question in QUESTIONS])
    assert float(together.detach().std()) > 1e-3, "answers must differ, or this test could not fail"
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-3)
    (ours,) = torch.autograd.grad(together[0], images, retain_graph=True)
    (theirs,) = torch.autograd.grad(alone[0], images)
    assert_grad_close("images", ours, theirs)


@pytest.mark.parametrize("change", [{"cache_text": False}, {"checkpointing": True}])
def test_cheaper_ways_say_the_same(folder: Path, change: dict[str, bool]) -> None:
    images = views().requires_grad_()
    usual = model_of(folder).log_odds(images, VIEW_NAMES[:3], QUESTIONS)
    other = model_of(folder, **change).log_odds(images, VIEW_NAMES[:3], QUESTIONS)
    torch.testing.assert_close(usual, other, atol=1e-4, rtol=1e-4)
    (first,) = torch.autograd.grad(usual.sum(), images)
    (second,) = torch.autograd.grad(other.sum(), images)
    assert_grad_close("images", second, first)


@pytest.mark.parametrize(
    "way", [{}, {"cache_text": False}, {"layout": "grid"}, {"fast_modules": False}], ids=str
)
def test_several_scenes_at_once_are_answered_as_one_by_one(
    folder: Path, way: dict[str, Any]
) -> None:
    model = model_of(folder, **way)
    images = torch.stack([views(3), views(6)[3:], 0.2 * views(3)]).requires_grad_()
    together = model.scene_log_odds(images, VIEW_NAMES[:3], QUESTIONS)
    alone = torch.stack([model.log_odds(one, VIEW_NAMES[:3], QUESTIONS) for one in images])
    assert together.shape == (3, len(QUESTIONS))
    assert (together[0] - together[1:]).abs().min() > 1e-5, "scenes must differ"
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    weights = torch.arange(together.numel()).reshape(together.shape) + 1.0
    (ours,) = torch.autograd.grad((weights * together).sum(), images)
    (theirs,) = torch.autograd.grad((weights * alone).sum(), images)
    assert_grad_close("images", ours, theirs)


def test_checkpointing_keeps_fewer_values(folder: Path) -> None:
    kept = []
    for checkpointing in (False, True):
        model = model_of(folder, checkpointing=checkpointing, cache_text=False)
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.log_odds(views().requires_grad_(), VIEW_NAMES[:3], QUESTIONS)
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]


def test_frozen_weights_get_no_gradient_and_repeated_questions_build_nothing(folder: Path) -> None:
    model = model_of(folder)
    for _ in range(2):
        model.log_odds(views().requires_grad_(), VIEW_NAMES[:3], QUESTIONS).sum().backward()
    assert all(parameter.grad is None for parameter in model.network.parameters())
    qwen: Any = model.qwen
    assert len(model._readers) == len(qwen._text_caches) == 1


def test_a_grid_is_one_picture_with_all_views(folder: Path) -> None:
    model = model_of(folder, layout="grid")
    images = views(4).requires_grad_()
    odds = model.log_odds(images, VIEW_NAMES, QUESTIONS)
    message = model._message(("all views",), tuple(QUESTIONS), (1, 1, 2 * SIDE, 2 * SIDE))
    assert int(message.image_mask.sum()) == 4 * (SIDE // 8) ** 2
    (gradient,) = torch.autograd.grad(odds.sum(), images)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    picture = as_grid(images.detach(), 2)
    torch.testing.assert_close(picture[0, :SIDE, SIDE:], images[1].detach())
    torch.testing.assert_close(picture[0, SIDE:, :SIDE], images[2].detach())


def test_a_model_can_write_and_it_is_repeatable(folder: Path) -> None:
    model = model_of(folder)
    assert model.generate_text("a red cube", 5) == model.generate_text("a red cube", 5)


class Pieces:
    """A tokenizer with several ways to write Yes."""

    unk_token_id = 0
    known: ClassVar = {"Yes": [5], " Yes": [6], "yes": [5], " yes": [7, 8], "YES": [0]}

    def encode(self, word: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return self.known[word]


def test_ways_to_write_an_answer_are_pooled_once_each() -> None:
    tokenizer: Any = Pieces()
    assert answer_ids(tokenizer, ("Yes", " Yes", "yes", " yes", "YES")) == (5, 6)
    with pytest.raises(ConfigError, match="YES"):
        answer_ids(tokenizer, ("YES",))


def test_other_models_and_quantised_weights_without_a_gpu_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError, match=r"critic\.quantize"):
        YesNoModel(folder, CPU, quantize="4bit")
    with pytest.raises(ConfigError, match="preprocessor_config"):
        YesNoModel(tmp_path, CPU)
    save_processor(tmp_path, critic_tokenizer())
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ConfigError, match=r"llava.*qwen2_vl"):
        YesNoModel(tmp_path, CPU)


def test_a_visiting_model_answers_and_goes_home(folder: Path) -> None:
    model = model_of(folder, resident=False)
    config = CriticConfig(clip=0.0, every=1)
    rendered = Views(views(4), orbit([0.0, 90.0, 180.0, 270.0], 15.0, 3.0, 40.0, SIDE, SIDE), 4)
    questions = [Question("a", QUESTIONS[0])]
    outputs = [
        Critic(model, questions, config, torch.Generator(), offload=offload)(
            rendered, Progress(0, 1)
        )
        for offload in (False, True)
    ]
    assert torch.equal(*(output.color_gradient for output in outputs))
    assert next(model.network.parameters()).device == CPU


def test_graphs_are_refused_where_they_cannot_be(folder: Path) -> None:
    with pytest.raises(DeviceError, match=r"critic\.graphs needs a GPU"):
        YesNoModel(folder, CPU, graphs=True)
    with pytest.raises(ConfigError, match="checkpointing"):
        YesNoModel(folder, torch.device("cuda"), graphs=True, checkpointing=True)

"""The embedded critic in plain torch says what the network of transformers says, in values and gradients."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vlm3d_gs.config import CriticConfig, QuestionConfig
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.core.prompts import parse_prompt
from vlm3d_gs.critic.guidance import Critic
from vlm3d_gs.critic.questions.checklist import prompt_questions
from vlm3d_gs.critic.questions.templates import VIEW_NAMES, Question
from vlm3d_gs.critic.qwen.small import SmallQwen
from vlm3d_gs.critic.qwen.small_config import is_small
from vlm3d_gs.critic.qwen.transformers_qwen import TransformersQwen
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.mini.critic.model import LAYOUT, critic_config, critic_tokenizer, save_processor
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.optimize.guidance import Progress, Views

CPU = torch.device("cpu")
EMBEDDED = embedded_weights("critic")
PROMPTS = [
    "a red cube",
    "a red cube on top of a blue sphere",
    "a yellow torus to the left of a red sphere",
]


def questions(prompt: str) -> list[str]:
    return [question.text for question in prompt_questions(parse_prompt(prompt), QuestionConfig())]


def pictures(*shape: int) -> torch.Tensor:
    """Random pictures [*shape, 3] with large and small structure; mere noise all looks the same to the critic."""
    generator = torch.Generator().manual_seed(sum(shape))
    *count, height, width = shape
    coarse = torch.rand(len(torch.empty(count).flatten()), 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noisy = smooth + 0.1 * torch.randn(smooth.shape, generator=generator)
    return noisy.clamp(0.02, 0.98).movedim(1, -1).reshape(*shape, 3)


@pytest.fixture(scope="module")
def small() -> YesNoModel:
    model = YesNoModel(EMBEDDED, CPU)
    assert isinstance(model.qwen, SmallQwen)
    return model


@pytest.fixture(scope="module")
def published() -> YesNoModel:
    model = YesNoModel(EMBEDDED, CPU, runtime="transformers")
    assert isinstance(model.qwen, TransformersQwen)
    return model


def assert_equal_looks(
    small: YesNoModel, published: YesNoModel, images: torch.Tensor, asked: list[str]
) -> None:
    """Compare log-odds and their gradients, each with its own weight, within 1e-4 of the largest."""
    names = VIEW_NAMES[: images.shape[1]]
    looks = []
    for model in (small, published):
        pixels = images.clone().requires_grad_()
        odds = model.scene_log_odds(pixels, names, asked)
        weights = torch.arange(1.0, odds.numel() + 1.0).reshape(odds.shape)
        looks.append((odds.detach(), *torch.autograd.grad((weights * odds).sum(), pixels)))
    for ours, theirs in zip(*looks, strict=True):
        assert theirs.abs().max() > 0.0
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_it_answers_as_transformers_does(
    small: YesNoModel, published: YesNoModel, prompt: str
) -> None:
    assert_equal_looks(small, published, pictures(1, 4, 64, 64), questions(prompt))


@pytest.mark.parametrize(
    "shape",
    [(3, 4, 64, 64), (2, 1, 64, 64), (1, 3, 32, 48), (1, 2, 50, 70), (1, 4, 96, 96)],
    ids=str,
)
def test_it_reads_any_number_of_scenes_and_views_of_any_size(
    small: YesNoModel, published: YesNoModel, shape: tuple[int, ...]
) -> None:
    assert_equal_looks(small, published, pictures(*shape), questions(PROMPTS[1])[:2])


def test_it_reads_a_grid_of_views() -> None:
    models = [
        YesNoModel(EMBEDDED, CPU, layout="grid", runtime=runtime)
        for runtime in ("torch", "transformers")
    ]
    assert_equal_looks(*models, pictures(1, 4, 64, 64), questions(PROMPTS[0]))


def test_it_knows_the_size_that_it_was_trained_on(small: YesNoModel, published: YesNoModel) -> None:
    assert small.trained_px == published.trained_px == 64
    assert small.image_token_id == published.image_token_id


def test_in_bfloat16_it_says_about_the_same(small: YesNoModel) -> None:
    rough = YesNoModel(EMBEDDED, CPU, torch.bfloat16)
    assert {parameter.dtype for parameter in rough.network.parameters()} == {torch.bfloat16}
    images = torch.rand(2, 4, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    looks = []
    for model in (rough, small):
        pixels = images.clone().requires_grad_()
        odds = model.scene_log_odds(pixels, VIEW_NAMES, questions(PROMPTS[1]))
        looks.append((odds.detach(), *torch.autograd.grad(odds.sum(), pixels)))
    (ours, slope), (exact, exact_slope) = looks
    torch.testing.assert_close(ours, exact, atol=0.5, rtol=0.05)
    # So are the gradients of transformers: the deep network amplifies the rounding of each layer.
    assert torch.cosine_similarity(slope.flatten(), exact_slope.flatten(), dim=0) > 0.7


def merging(folder: Path) -> Path:
    """Write an untrained critic that joins 2 x 2 patches to a token, has three heads and other sizes."""
    torch.manual_seed(5)
    tokenizer = critic_tokenizer()
    settings = critic_config(tokenizer).to_dict()
    settings["vision_config"] |= {"spatial_merge_size": 2, "depth": 2, "num_heads": 3}
    settings["vision_config"] |= {"fullatt_block_indexes": [0, 1]}
    settings["text_config"] |= {
        "num_hidden_layers": 2,
        "intermediate_size": 96,
        "layer_types": None,
    }
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            parameter.data *= 4.0
        elif name.endswith("bias"):
            parameter.data.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    save_processor(folder, tokenizer)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "merge_size": 2}))
    return folder


def test_patches_are_joined_as_by_transformers(tmp_path: Path) -> None:
    folder = merging(tmp_path)
    models = [YesNoModel(folder, CPU, runtime=runtime) for runtime in ("torch", "transformers")]
    assert models[0].patch_layout.merge_size == 2
    assert_equal_looks(*models, pictures(2, 2, 32, 64), questions(PROMPTS[1])[:3])


def test_it_writes_what_transformers_writes(small: YesNoModel, published: YesNoModel) -> None:
    for request in ("a red cube", "is there a blue sphere seen from the front?"):
        assert small.generate_text(request, 12) == published.generate_text(request, 12)


def test_it_stops_writing_where_the_answer_ends() -> None:
    qwen, ids = SmallQwen(EMBEDDED, CPU, torch.float32), torch.tensor([1, 2, 3])
    written = qwen.generate(ids, 6).tolist()
    assert len(written) == 6
    qwen.config = replace(qwen.config, end_token_id=written[1])
    assert qwen.generate(ids, 6).tolist() == written[: written.index(written[1]) + 1]


def test_a_visiting_model_answers_and_goes_home() -> None:
    model = YesNoModel(EMBEDDED, CPU, resident=False)
    rendered = Views(
        pictures(4, 64, 64), orbit([0.0, 90.0, 180.0, 270.0], 15.0, 3.0, 40.0, 64, 64), 4
    )
    asked = [Question("a", questions(PROMPTS[0])[0])]
    critic = Critic(model, asked, CriticConfig(every=1), torch.Generator(), offload=True)
    assert critic(rendered, Progress(0, 1)).color_gradient.abs().max() > 0.0
    assert next(model.network.parameters()).device == CPU
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Copy the embedded critic, with other settings."""
    copy = folder / "critic"
    shutil.copytree(EMBEDDED, copy)
    settings = json.loads((copy / "config.json").read_text())
    change(settings)
    (copy / "config.json").write_text(json.dumps(settings))
    return copy


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "model_type": lambda s: s.update(model_type="qwen2_vl"),
    "windows": lambda s: s["vision_config"].update(fullatt_block_indexes=[1, 3]),
    "tie_word_embeddings": lambda s: s.update(tie_word_embeddings=False),
    "hidden_act": lambda s: s["text_config"].update(hidden_act="gelu"),
    "rope_type": lambda s: s["text_config"]["rope_parameters"].update(rope_type="yarn"),
    "rms_norm_eps": lambda s: s["text_config"].pop("rms_norm_eps"),
    "text_config": lambda s: s.pop("text_config"),
    "do not attend": lambda s: s["text_config"].update(layer_types=["sliding_attention"] * 6),
    "share keys": lambda s: s["text_config"].update(num_key_value_heads=2),
    "mrope_section": lambda s: s["text_config"]["rope_parameters"].update(mrope_section=[1, 1, 1]),
    "quantization_config": lambda s: s.update(quantization_config={"bits": 4}),
    "different widths": lambda s: s["vision_config"].update(out_hidden_size=64),
    "multiple of 4": lambda s: s["vision_config"].update(num_heads=32),
}


@pytest.mark.parametrize("reason", sorted(CHANGES))
def test_other_networks_are_left_to_transformers(reason: str, tmp_path: Path) -> None:
    assert is_small(EMBEDDED)
    folder = changed(tmp_path, CHANGES[reason])
    assert not is_small(folder)
    with pytest.raises(ConfigError, match=rf"{reason}[\s\S]*critic\.runtime=auto"):
        YesNoModel(folder, CPU, runtime="torch")


def test_folders_that_hold_no_network_are_not_small(tmp_path: Path) -> None:
    assert not is_small(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert not is_small(tmp_path)


def test_what_only_transformers_can_do_is_given_to_it() -> None:
    model = YesNoModel(EMBEDDED, CPU, checkpointing=True)
    assert isinstance(model.qwen, TransformersQwen)
    with pytest.raises(ConfigError, match=r"critic\.checkpointing"):
        YesNoModel(EMBEDDED, CPU, runtime="torch", checkpointing=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "too many, such as more"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.zeros(7)}),
            r"model.norm.weight is \(7,\) and should be \(192,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, tmp_path: Path
) -> None:
    folder = changed(tmp_path, lambda settings: None)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputFileError, match=message):
        YesNoModel(folder, CPU)


def test_weights_with_other_names_are_left_to_transformers(tmp_path: Path) -> None:
    folder = changed(tmp_path, lambda settings: None)
    tensors = load_file(folder / "model.safetensors")
    renamed = {f"model.{name}" if "visual" in name else name: t for name, t in tensors.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    assert not is_small(folder)


def test_the_layout_of_the_patches_is_that_of_the_network(small: YesNoModel) -> None:
    assert isinstance(small.qwen, SmallQwen)
    config = small.qwen.config
    assert (config.patch_size, config.merge_size) == (LAYOUT.patch_size, LAYOUT.merge_size)

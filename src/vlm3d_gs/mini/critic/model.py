"""The embedded critic: a very small Qwen2.5-VL with its tokenizer and chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from vlm3d_gs.core.prompts import known_words, words_of
from vlm3d_gs.critic.questions.templates import CAPTION_REQUEST, GEOMETRY_QUESTION, VIEW_NAMES
from vlm3d_gs.critic.qwen.preprocess import PatchLayout
from vlm3d_gs.mini.language import word_tokenizer

LAYOUT = PatchLayout(patch_size=8, merge_size=1, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRAINED_PX = 64
"""Side of the images that the critic is trained on; stored in its config.json."""
VISION_HEADS = 12
VISION_ROPE_THETA = 10.0
"""Rotary frequencies from 1 to 0.18 radians per patch: on an 8x8 grid, the published 10,000 hardly turns most pairs."""
NEIGHBOUR_STEPS = (1, 1, 2, 0)
"""Initial offset in patches to which the heads of each vision block attend; 0 leaves them as they are."""
NEIGHBOUR_SHARPNESS = 17.0
"""Scale of the initial attention logits at that offset."""
QUESTION_WORDS = "do these views show is there seen from the front answer yes or no"


def critic_tokenizer() -> PreTrainedTokenizerFast:
    """Return the critic's tokenizer: one token per word or punctuation mark, Qwen's special tokens and template."""
    texts = [
        GEOMETRY_QUESTION,
        CAPTION_REQUEST,
        QUESTION_WORDS,
        "system user assistant you are a helpful assistant",
    ]
    words = {*known_words(), *(word for text in (*texts, *VIEW_NAMES) for word in words_of(text))}

    tokenizer = word_tokenizer(["<unk>", *sorted(words), *".,:?"])
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL),
        chat_template=CHAT_TEMPLATE,
    )


def new_critic(seed: int) -> tuple[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerFast]:
    """Return the untrained critic, 4.6 M parameters, and its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = critic_tokenizer()
    model = Qwen2_5_VLForConditionalGeneration(critic_config(tokenizer))

    for block, step in zip(model.model.visual.blocks, NEIGHBOUR_STEPS, strict=True):
        init_as_convolution(block.attn, step)
    init_language_model(model.model.language_model)

    return model, tokenizer


def critic_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """Return the config of the critic: the published architecture at the size of the mini world."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": 4,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_heads": VISION_HEADS,
        "rope_parameters": {"rope_type": "axial", "rope_theta": VISION_ROPE_THETA},
        "patch_size": LAYOUT.patch_size,
        "spatial_merge_size": LAYOUT.merge_size,
        "temporal_patch_size": LAYOUT.temporal_patch_size,
        "window_size": 64,
        "out_hidden_size": 192,
        "fullatt_block_indexes": [0, 1, 2, 3],
    }

    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        trained_px=TRAINED_PX,
    )


def init_language_model(language_model: Any) -> None:
    """Initialise a language model so that words, images and the layers' outputs have similar norms.

    With small embeddings the outputs of the first layers drown the words, and later layers can hardly read them; with
    weights that grow unchecked (little weight decay) it gets worse. An earlier version of the embedded critic failed
    for that reason (docs/log/embedded-critic.md).
    """
    language_model.embed_tokens.weight.data.normal_(0.0, 0.1)
    for layer in language_model.layers:
        for name, parameter in layer.named_parameters():
            if parameter.ndim > 1:
                to_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                parameter.data.normal_(0.0, 0.02 if to_residual else 0.07)


def init_as_convolution(attention: Any, step: int) -> None:
    """Initialise an attention layer as a 3x3 convolution: head h attends to one neighbour, `step` patches away.

    A vision transformer trained from scratch on few images hardly learns to compare neighbouring patches. Here the
    query and key biases, turned by the rotary embedding, make nine heads attend to the nine offsets; training can
    change all of it. After d'Ascoli et al. 2021 (ConViT).

    Args:
        attention: the vision attention, changed in place.
        step: 0 does nothing.
    """
    if step == 0:
        return

    pairs = attention.head_dim // 4
    frequencies = VISION_ROPE_THETA ** (-torch.arange(pairs) / pairs)
    amplitude = NEIGHBOUR_SHARPNESS**0.5

    # A query turned by the angles of an offset has its largest product with the key at that offset. The first half of
    # a head's dimensions are cosines, the second sines.
    bias = torch.zeros(3, attention.num_heads, 4 * pairs)
    for head in range(9):
        row, column = step * (head // 3 - 1), step * (head % 3 - 1)
        angles = torch.cat([frequencies * row, frequencies * column])
        bias[0, head] = amplitude * torch.cat([angles.cos(), angles.sin()])
        bias[1, head, : 2 * pairs] = amplitude

    attention.qkv.bias.data.copy_(bias.flatten())


def save_processor(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write tokenizer, chat template and `preprocessor_config.json` in the published layout."""
    tokenizer.save_pretrained(folder)
    values = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": LAYOUT.patch_size,
        "merge_size": LAYOUT.merge_size,
        "temporal_patch_size": LAYOUT.temporal_patch_size,
        "image_mean": LAYOUT.mean,
        "image_std": LAYOUT.std,
        "min_pixels": 64,
        "max_pixels": 65536,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")

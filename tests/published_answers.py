"""What a published Qwen-VL itself answers: its own forward pass over the message; only the patches are ours."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoTokenizer

from vlm3d_gs.critic.questions.templates import VIEW_NAMES
from vlm3d_gs.critic.qwen.loading import MODEL_TYPES
from vlm3d_gs.critic.qwen.preprocess import load_patch_layout, to_patches


def reference_log_odds(folder: Path, images: torch.Tensor, question: str) -> torch.Tensor:
    """Log-odds of one question about views [V, H, W, 3] of whole patches, in a message of its own."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    model = MODEL_TYPES[kind].from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    content: list[dict[str, str]] = []
    for name in VIEW_NAMES[: len(images)]:
        content += [{"type": "text", "text": f"{name}: "}, {"type": "image"}]
    content.append({"type": "text", "text": question})
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    patches, grids = to_patches(images, load_patch_layout(folder))
    text = text.replace("<|image_pad|>", "<|image_pad|>" * int(grids[0].prod()))
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=patches,
        image_grid_thw=grids,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
    ).logits[0, -1]
    yes, no = (tokenizer(word).input_ids[0] for word in ("Yes", "No"))
    return logits[yes] - logits[no]

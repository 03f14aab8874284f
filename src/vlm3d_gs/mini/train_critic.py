"""Training of the embedded critic: Yes/No questions and captions, with dense labels on the image tokens beside them.

One bit a question teaches slowly. So, in training only, linear heads on the vision tower's tokens name what each token
shows (shape, colour), what the other object is and where it lies from here; and the language model also describes the
scene in words. Eight questions share one look at the views. The heads are thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from vlm3d_gs.guidance.messages import split_message
from vlm3d_gs.guidance.packing import mrope_positions, pack
from vlm3d_gs.guidance.preprocess import to_patches
from vlm3d_gs.guidance.questions import CAPTION_REQUEST, VIEW_NAMES
from vlm3d_gs.mini.critic_data import DAMAGE_CLASSES, CriticBatch, sample_critic_batch
from vlm3d_gs.mini.critic_model import LAYOUT, new_critic
from vlm3d_gs.mini.data import step_rng
from vlm3d_gs.mini.examples import Example
from vlm3d_gs.mini.training import TrainingPlan, fit
from vlm3d_gs.mini.world import IMAGE_PX
from vlm3d_gs.prompts import COLORS, SHAPES

PLAN = TrainingPlan(steps=4_600, lr=8e-4, warmup_steps=500)
VISION_SHARE = 0.4
"""First share of the run, in which only the vision tower learns, from the dense labels: steps cost a third there."""
SCENES_A_STEP = 8
QUESTIONS_A_SCENE = 8
TOKENS_A_VIEW = (IMAGE_PX // LAYOUT.factor) ** 2


class TokenHeads(nn.Module):
    """Linear read-outs of the vision tower, used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = nn.Linear(width, len(SHAPES) + 1)
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.other_shape = nn.Linear(width, len(SHAPES) + 1)
        self.other_color = nn.Linear(width, len(COLORS) + 1)
        self.offset = nn.Linear(width, 3)
        self.damage = nn.Linear(width, len(DAMAGE_CLASSES))

    def forward(self, tokens: Tensor, batch: CriticBatch) -> tuple[Tensor, dict[str, float]]:
        """Return the summed loss of all read-outs and some accuracies; tokens [S * V, T, width]."""
        labels = batch.labels
        seen = labels.shape > 0
        weight = torch.where(seen, 1.0, 0.1)
        total = _weighted(self.shape(tokens), labels.shape, weight) + _weighted(
            self.color(tokens), labels.color, weight
        )
        other = weight * seen
        total = total + _weighted(self.other_shape(tokens), labels.other_shape, other)
        total = total + _weighted(self.other_color(tokens), labels.other_color, other)
        apart = (self.offset(tokens).float() - labels.offset).abs().sum(-1)
        paired = (seen & (labels.other_shape > 0)).float()
        total = total + 2.0 * (apart * paired).sum() / paired.sum().clamp_min(1.0)
        damage = self.damage(tokens.mean(1)).float()
        with torch.no_grad():
            scalars = {
                "token shape": float(
                    (self.shape(tokens).argmax(-1) == labels.shape)[seen].float().mean()
                ),
                "token color": float(
                    (self.color(tokens).argmax(-1) == labels.color)[seen].float().mean()
                ),
                "token other": float(
                    (self.other_shape(tokens).argmax(-1) == labels.other_shape)[seen].float().mean()
                ),
                "token offset": float((apart * paired).sum() / paired.sum().clamp_min(1.0)),
                "view damage": float((damage.argmax(-1) == labels.damage).float().mean()),
            }
        return total + F.cross_entropy(damage, labels.damage), scalars


def _weighted(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.float().movedim(-1, 1), target, reduction="none")
    return (losses * weight).sum() / weight.sum().clamp_min(1.0)


@dataclass(frozen=True)
class _Sequences:
    """Packed token sequences of a batch."""

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    targets: Tensor
    answers: Tensor
    """[B, L] bool: where a Yes/No answer is predicted."""


def train_critic(
    folder: Path,
    device: str,
    seed: int,
    log: Callable[[str], None],
    plan: TrainingPlan = PLAN,
    warm_start: Path | None = None,
) -> tuple[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerFast]:
    """Train the critic; return it with averaged weights, and its tokenizer.

    Args:
        folder: checkpoints.
        device: where to train.
        seed: of weights and data.
        log: takes lines of progress.
        plan: length and rates.
        warm_start: model folder whose weights to begin with, where there is no checkpoint yet.
    """
    model, tokenizer = new_critic(seed)
    if warm_start is not None:
        model.load_state_dict(
            Qwen2_5_VLForConditionalGeneration.from_pretrained(warm_start).state_dict()
        )
    heads = TokenHeads(model.config.vision_config.out_hidden_size)
    model, heads = model.to(device), heads.to(device)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = step_rng(seed, step)
        if step < VISION_SHARE * plan.steps:
            batch = sample_critic_batch(rng, SCENES_A_STEP, 1, n_views=4).to(device)
            with torch.autocast(device, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
                return heads(look(model, batch)[0], batch)
        batch = sample_critic_batch(rng, SCENES_A_STEP, QUESTIONS_A_SCENE).to(device)
        with torch.autocast(device, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            tokens, logits, packed = forward(model, tokenizer, batch)
            dense, read = heads(tokens, batch)
        chosen = packed.targets >= 0
        losses = F.cross_entropy(logits.float()[chosen], packed.targets[chosen], reduction="none")
        yes_no = packed.answers[chosen]
        answer_loss, caption_loss = losses[yes_no].mean(), losses[~yes_no].mean()
        right = (
            logits.detach()[chosen][yes_no].argmax(-1) == packed.targets[chosen][yes_no]
        ).float()
        scalars = {
            "answer": float(answer_loss.detach()),
            "caption": float(caption_loss.detach()),
            "dense": float(dense.detach()),
        }
        scalars |= read | _accuracies(batch, right)
        return answer_loss + 0.5 * caption_loss + 0.3 * dense, scalars

    fit({"critic": model, "heads": heads}, loss, plan, folder, log)
    return model, tokenizer


def _accuracies(batch: CriticBatch, right: Tensor) -> dict[str, float]:
    kinds: dict[str, list[float]] = {}
    flat = [example for examples in batch.examples for example in examples]
    for example, hit in zip(flat, right.tolist(), strict=True):
        kinds.setdefault(("yes " if example.answer else "no ") + example.kind, []).append(hit)
    return {kind: float(np.mean(hits)) for kind, hits in sorted(kinds.items())}


def forward(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    batch: CriticBatch,
) -> tuple[Tensor, Tensor, _Sequences]:
    """Look once at each scene and answer all its questions.

    Returns:
        Vision tokens [S * V, T, width], logits [S, L, vocabulary], and the sequences they belong to.
    """
    tokens, grids = look(model, batch)
    packed = _sequences(model, tokenizer, batch, grids[: batch.images.shape[1]])
    embeddings = model.get_input_embeddings()(packed.input_ids)
    places = packed.input_ids == model.config.image_token_id
    embeddings = embeddings.masked_scatter(places[..., None], tokens.to(embeddings.dtype))
    hidden = model.model.language_model(
        inputs_embeds=embeddings,
        position_ids=packed.position_ids,
        attention_mask={"full_attention": packed.mask[:, None]},
        use_cache=False,
    ).last_hidden_state
    return tokens, model.lm_head(hidden), packed


def look(model: Qwen2_5_VLForConditionalGeneration, batch: CriticBatch) -> tuple[Tensor, Tensor]:
    """Run the vision tower: tokens [S * V, T, width] and patch grids [S * V, 3]."""
    patches, grids = to_patches(batch.images.flatten(0, 1), LAYOUT)
    tokens = model.model.visual(patches, grid_thw=grids).pooler_output
    return tokens.unflatten(0, (len(grids), TOKENS_A_VIEW)), grids


def _sequences(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    batch: CriticBatch,
    grids: Tensor,
) -> _Sequences:
    names = [VIEW_NAMES[index] for index in batch.view_indices]
    image_token = model.config.image_token_id
    rows = []
    for captions, examples in zip(batch.captions, batch.examples, strict=True):
        prefix, questions = split_message(
            tokenizer,
            names,
            [TOKENS_A_VIEW] * len(names),
            [CAPTION_REQUEST, *(item.text for item in examples)],
        )
        positions = mrope_positions(prefix, image_token, grids, LAYOUT.merge_size)
        rows.append(_row(tokenizer, prefix, positions, questions, captions, examples))
    length = max(len(row.input_ids) for row in rows)
    return _stack(rows, length, batch.images.device)


def _row(
    tokenizer: PreTrainedTokenizerFast,
    prefix: list[int],
    positions: Tensor,
    questions: list[list[int]],
    caption: str,
    examples: list[Example],
) -> _Sequences:
    said = tokenizer(caption + "<|im_end|>", add_special_tokens=False).input_ids
    packed = pack(prefix, positions, [questions[0] + said, *questions[1:]])
    targets = torch.full((len(packed.input_ids),), -1)
    answers = torch.zeros(len(packed.input_ids), dtype=torch.bool)
    end = int(packed.answer_index[0])
    targets[end - len(said) : end] = torch.tensor(said)
    yes, no = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("Yes", "No"))
    for place, example in zip(packed.answer_index[1:].tolist(), examples, strict=True):
        targets[place] = yes if example.answer else no
        answers[place] = True
    return _Sequences(packed.input_ids, packed.position_ids, packed.mask, targets, answers)


def _stack(rows: list[_Sequences], length: int, device: torch.device) -> _Sequences:
    def padded(values: Tensor, fill: int) -> Tensor:
        return F.pad(values, (0, length - values.shape[-1]), value=fill)

    masks = []
    for row in rows:
        mask = torch.eye(length, dtype=torch.bool)
        size = len(row.input_ids)
        mask[:size, :size] = row.mask
        masks.append(mask)
    return _Sequences(
        torch.stack([padded(row.input_ids, 0) for row in rows]).to(device),
        torch.stack([padded(row.position_ids, 0) for row in rows], 1).to(device),
        torch.stack(masks).to(device),
        torch.stack([padded(row.targets, -1) for row in rows]).to(device),
        torch.stack([padded(row.answers.long(), 0) for row in rows]).bool().to(device),
    )

"""Training of the embedded critic: Yes/No questions and captions, with dense labels on the image tokens beside them.

One bit a question teaches slowly. So, in training only, linear heads (`critic_heads`) name what each image token and
each noun phrase refers to, three attention heads are told where to look (`critic_routes`), and the language model also
describes the scene in words. Ten questions share one look at the views. The vision tower learns first, alone; then it
is kept as it is and the language model learns to read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from vlm3d_gs.guidance.messages import split_message
from vlm3d_gs.guidance.packing import PackedQuestions, mrope_positions, pack
from vlm3d_gs.guidance.preprocess import to_patches
from vlm3d_gs.guidance.questions import CAPTION_REQUEST, VIEW_NAMES
from vlm3d_gs.mini.critic_data import CriticBatch, sample_critic_batch
from vlm3d_gs.mini.critic_heads import (
    NounPhrase,
    PhraseHeads,
    PhraseLabels,
    TokenHeads,
    WorldHead,
    noun_phrases,
)
from vlm3d_gs.mini.critic_model import LAYOUT, new_critic
from vlm3d_gs.mini.critic_routes import route_loss
from vlm3d_gs.mini.data import step_rng
from vlm3d_gs.mini.examples import Example
from vlm3d_gs.mini.training import TrainingPlan, fit
from vlm3d_gs.mini.world import IMAGE_PX

PLAN = TrainingPlan(steps=6_000, lr=6e-4, warmup_steps=200, decay_fraction=0.5, weight_decay=0.1)
VISION_SHARE = 0.4
"""First share of the run, in which only the vision tower learns, from the dense labels: steps cost a third there."""
SCENES_A_STEP = 8
QUESTIONS_A_SCENE = 10
NAMED_LAYER = 2
"""Layers of the language model after which an image token should know its view's name."""
POINTED_LAYER = 3
"""Layers after which a noun phrase should know in which direction the other object lies."""
GROUNDED_LAYER = 4
"""Layers after which it should know whether and where its object is."""
HIDDEN = -1e9
"""Added to the attention of tokens that must not be seen."""
TOKENS_A_VIEW = (IMAGE_PX // LAYOUT.factor) ** 2


@dataclass(frozen=True)
class _Sequences:
    """Packed token sequences of a batch."""

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    targets: Tensor
    answers: Tensor
    """[B, L] bool: where a Yes/No answer is predicted."""
    phrases: PhraseLabels

    def to(self, device: torch.device) -> _Sequences:
        """Move the tensors."""
        return _Sequences(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.mask.to(device),
            self.targets.to(device),
            self.answers.to(device),
            self.phrases.to(device),
        )


@dataclass(frozen=True)
class _Row:
    """One scene's sequence and what is predicted in it."""

    packed: PackedQuestions
    targets: Tensor
    """[L] int64 token predicted at each place, -1 for none."""
    answers: Tensor
    """[L] bool."""


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
    heads = TokenHeads(model.config.vision_config.out_hidden_size).to(device)
    width = model.config.text_config.hidden_size
    phrase_heads, world_head = PhraseHeads(width).to(device), WorldHead(width).to(device)
    model = model.to(device)
    # the routes are read from the attention itself, which only this implementation returns
    model.model.language_model.config._attn_implementation = "eager"

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = step_rng(seed, step)
        if step < VISION_SHARE * plan.steps:
            batch = sample_critic_batch(rng, SCENES_A_STEP, 1, n_views=4).to(device)
            with torch.autocast(device, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
                return heads(look(model, batch)[0], batch)
        batch = sample_critic_batch(rng, SCENES_A_STEP, QUESTIONS_A_SCENE).to(device)
        with torch.autocast(device, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            read = forward(model, tokenizer, batch)
            packed, hidden = read.sequences, read.hidden
            named = hidden[NAMED_LAYER][read.image_places].unflatten(0, read.tokens.shape[:2])
            turned, apart = world_head(named, batch)
            grounding, grounded = phrase_heads(
                hidden[GROUNDED_LAYER], hidden[POINTED_LAYER], packed.phrases
            )
        routes, looks = route_loss(
            read.attentions, packed.input_ids, read.image_places, packed.phrases, batch, tokenizer
        )
        chosen = packed.targets >= 0
        losses = F.cross_entropy(
            read.logits.float()[chosen], packed.targets[chosen], reduction="none"
        )
        yes_no = packed.answers[chosen]
        answer_loss, caption_loss = losses[yes_no].mean(), losses[~yes_no].mean()
        right = (
            read.logits.detach()[chosen][yes_no].argmax(-1) == packed.targets[chosen][yes_no]
        ).float()
        scalars = {
            "answer": float(answer_loss.detach()),
            "caption": float(caption_loss.detach()),
        }
        scalars |= apart | grounded | looks | _accuracies(batch, right)
        total = 2.0 * answer_loss + 0.3 * caption_loss + grounding + 2.0 * turned + 0.5 * routes
        return total, scalars

    modules = {"critic": model, "heads": heads, "phrases": phrase_heads, "world": world_head}
    fit(modules, loss, plan, folder, log)
    return model, tokenizer


def _accuracies(batch: CriticBatch, right: Tensor) -> dict[str, float]:
    kinds: dict[str, list[float]] = {}
    flat = [example for examples in batch.examples for example in examples]
    for example, hit in zip(flat, right.tolist(), strict=True):
        kinds.setdefault(("yes " if example.answer else "no ") + example.kind, []).append(hit)
    return {kind: float(np.mean(hits)) for kind, hits in sorted(kinds.items())}


@dataclass(frozen=True)
class _Reading:
    """What the model made of a batch."""

    tokens: Tensor
    """[S * V, T, width] of the vision tower, not on the graph."""
    hidden: tuple[Tensor, ...]
    """[S, L, width] before each layer and after the last."""
    attentions: tuple[Tensor, ...]
    """[S, heads, L, L] of each layer."""
    logits: Tensor
    """[S, L, vocabulary]."""
    image_places: Tensor
    """[S, L] bool."""
    sequences: _Sequences


def forward(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    batch: CriticBatch,
) -> _Reading:
    """Look once at each scene, with the vision tower as it is, and answer all its questions."""
    with torch.no_grad():
        tokens, grids = look(model, batch)
    packed = _sequences(model, tokenizer, batch, grids[: batch.images.shape[1]])
    embeddings = model.get_input_embeddings()(packed.input_ids)
    places = packed.input_ids == model.config.image_token_id
    embeddings = embeddings.masked_scatter(places[..., None], tokens.to(embeddings.dtype))
    mask = torch.where(packed.mask[:, None], 0.0, HIDDEN).to(embeddings.dtype)
    read = model.model.language_model(
        inputs_embeds=embeddings,
        position_ids=packed.position_ids,
        attention_mask={"full_attention": mask},
        use_cache=False,
        output_hidden_states=True,
        output_attentions=True,
    )
    return _Reading(
        tokens,
        read.hidden_states,
        read.attentions,
        model.lm_head(read.last_hidden_state),
        places,
        packed,
    )


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
    rows, phrases = [], []
    for scene, examples in zip(batch.scenes, batch.examples, strict=True):
        prefix, questions = split_message(
            tokenizer,
            names,
            [TOKENS_A_VIEW] * len(names),
            [CAPTION_REQUEST, *(item.text for item in examples)],
        )
        positions = mrope_positions(prefix, image_token, grids, LAYOUT.merge_size)
        caption = str(scene.composition) + "<|im_end|>"
        said = tokenizer(caption, add_special_tokens=False).input_ids
        asked = [questions[0] + said, *questions[1:]]
        packed = pack(prefix, positions, asked)
        rows.append(_row(tokenizer, packed, len(said), examples))
        ends = packed.answer_index[1:].tolist()
        phrases += [
            (len(rows) - 1, end - len(question) + 1 + phrase.place, phrase)
            for question, end in zip(questions[1:], ends, strict=True)
            for phrase in noun_phrases(tokenizer, question, scene)
        ]
    return _stack(rows, _phrase_labels(phrases)).to(batch.images.device)


def _phrase_labels(phrases: list[tuple[int, int, NounPhrase]]) -> PhraseLabels:
    """Stack phrases, each with its row of the batch and its place in the sequence."""
    said = [phrase for _, _, phrase in phrases]
    return PhraseLabels(
        row=torch.tensor([row for row, _, _ in phrases], dtype=torch.long),
        place=torch.tensor([place for _, place, _ in phrases], dtype=torch.long),
        exists=torch.tensor([float(phrase.exists) for phrase in said]),
        center=torch.tensor([phrase.center for phrase in said]).reshape(-1, 3),
        offset=torch.tensor([phrase.offset for phrase in said]).reshape(-1, 3),
        index=torch.tensor([phrase.index for phrase in said], dtype=torch.long),
    )


def _row(
    tokenizer: PreTrainedTokenizerFast,
    packed: PackedQuestions,
    caption_tokens: int,
    examples: list[Example],
) -> _Row:
    """Mark what is predicted where: the caption after its request, then one word after each question."""
    targets = torch.full((len(packed.input_ids),), -1)
    answers = torch.zeros(len(packed.input_ids), dtype=torch.bool)
    end = int(packed.answer_index[0])
    targets[end - caption_tokens : end] = packed.input_ids[end - caption_tokens + 1 : end + 1]
    yes, no = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("Yes", "No"))
    for place, example in zip(packed.answer_index[1:].tolist(), examples, strict=True):
        targets[place] = yes if example.answer else no
        answers[place] = True
    return _Row(packed, targets, answers)


def _stack(rows: list[_Row], phrases: PhraseLabels) -> _Sequences:
    length = max(len(row.targets) for row in rows)

    def padded(values: Tensor, fill: int) -> Tensor:
        return F.pad(values, (0, length - values.shape[-1]), value=fill)

    masks = []
    for row in rows:
        mask = torch.eye(length, dtype=torch.bool)
        size = len(row.targets)
        mask[:size, :size] = row.packed.mask
        masks.append(mask)
    return _Sequences(
        torch.stack([padded(row.packed.input_ids, 0) for row in rows]),
        torch.stack([padded(row.packed.position_ids, 0) for row in rows], 1),
        torch.stack(masks),
        torch.stack([padded(row.targets, -1) for row in rows]),
        torch.stack([padded(row.answers.long(), 0) for row in rows]).bool(),
        phrases,
    )

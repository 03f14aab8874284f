"""The token sequences of a training batch: all questions of a scene packed into one sequence with its views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vlm3d_gs.critic.questions.templates import CAPTION_REQUEST, VIEW_NAMES
from vlm3d_gs.critic.qwen.messages import IMAGE_TOKEN, split_message
from vlm3d_gs.critic.qwen.packing import PackedQuestions, mrope_positions, pack
from vlm3d_gs.mini.critic.data import CriticBatch
from vlm3d_gs.mini.critic.heads import NounPhrase, PhraseLabels, noun_phrases
from vlm3d_gs.mini.critic.model import LAYOUT
from vlm3d_gs.mini.world.examples import Example
from vlm3d_gs.mini.world.scenes import IMAGE_PX

PATCHES_PER_SIDE = IMAGE_PX // LAYOUT.factor
TOKENS_PER_VIEW = PATCHES_PER_SIDE**2


@dataclass(frozen=True)
class Sequences:
    """Packed token sequences of a batch, one per scene, L tokens with padding."""

    input_ids: Tensor
    """[S, L] int64."""
    position_ids: Tensor
    """[3, S, L] int64."""
    mask: Tensor
    """[S, L, L] bool: True where a row's token may attend to a column's."""
    targets: Tensor
    """[S, L] int64 token to predict at each position, -1 for none."""
    answers: Tensor
    """[S, L] bool: positions at which a Yes/No answer is predicted."""
    phrases: PhraseLabels

    def to(self, device: str) -> Sequences:
        """Move the tensors."""
        return Sequences(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.mask.to(device),
            self.targets.to(device),
            self.answers.to(device),
            self.phrases.to(device),
        )


@dataclass(frozen=True)
class _Row:
    """One scene's sequence and its targets."""

    packed: PackedQuestions
    targets: Tensor
    """[L] int64 token to predict at each position, -1 for none."""
    answers: Tensor
    """[L] bool."""


def token_sequences(tokenizer: PreTrainedTokenizerFast, batch: CriticBatch) -> Sequences:
    """Return what the language model reads for each scene: views, request for a caption, questions."""
    names = [VIEW_NAMES[index] for index in batch.view_indices]
    grids = torch.tensor([[1, PATCHES_PER_SIDE, PATCHES_PER_SIDE]]).repeat(len(names), 1)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    rows, phrases = [], []
    for scene, examples in zip(batch.scenes, batch.examples, strict=True):
        prefix, questions = split_message(
            tokenizer,
            names,
            [TOKENS_PER_VIEW] * len(names),
            [CAPTION_REQUEST, *(item.text for item in examples)],
        )
        positions = mrope_positions(prefix, image_token, grids, LAYOUT.merge_size)
        caption = str(scene.composition) + "<|im_end|>"
        caption_ids = tokenizer(caption, add_special_tokens=False).input_ids

        # The caption is part of the sequence after its request; the answers are single tokens and only predicted.
        packed = pack(prefix, positions, [questions[0] + caption_ids, *questions[1:]])
        rows.append(_row(tokenizer, packed, len(caption_ids), examples))

        ends = packed.answer_index[1:].tolist()
        phrases += [
            (len(rows) - 1, end - len(question) + 1 + phrase.place, phrase)
            for question, end in zip(questions[1:], ends, strict=True)
            for phrase in noun_phrases(tokenizer, question, scene)
        ]

    return _stack(rows, _phrase_labels(phrases))


def _phrase_labels(phrases: list[tuple[int, int, NounPhrase]]) -> PhraseLabels:
    """Stack phrases, each with its row of the batch and its index in the sequence."""
    labels = [phrase for _, _, phrase in phrases]
    return PhraseLabels(
        row=torch.tensor([row for row, _, _ in phrases], dtype=torch.long),
        place=torch.tensor([place for _, place, _ in phrases], dtype=torch.long),
        exists=torch.tensor([float(phrase.exists) for phrase in labels]),
        center=torch.tensor([phrase.center for phrase in labels]).reshape(-1, 3),
        offset=torch.tensor([phrase.offset for phrase in labels]).reshape(-1, 3),
        index=torch.tensor([phrase.index for phrase in labels], dtype=torch.long),
    )


def _row(
    tokenizer: PreTrainedTokenizerFast,
    packed: PackedQuestions,
    caption_tokens: int,
    examples: list[Example],
) -> _Row:
    """Set the targets: the caption after its request, then one word after each question."""
    targets = torch.full((len(packed.input_ids),), -1)
    answers = torch.zeros(len(packed.input_ids), dtype=torch.bool)

    # Each position predicts the next token, so the caption's targets are shifted by one.
    end = int(packed.answer_index[0])
    targets[end - caption_tokens : end] = packed.input_ids[end - caption_tokens + 1 : end + 1]

    yes, no = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("Yes", "No"))
    for place, example in zip(packed.answer_index[1:].tolist(), examples, strict=True):
        targets[place] = yes if example.answer else no
        answers[place] = True

    return _Row(packed, targets, answers)


def _stack(rows: list[_Row], phrases: PhraseLabels) -> Sequences:
    """Pad the rows to one length; padding attends to itself only, so that no row of the softmax is empty."""
    length = max(len(row.targets) for row in rows)

    def padded(values: Tensor, fill: int) -> Tensor:
        return F.pad(values, (0, length - values.shape[-1]), value=fill)

    masks = []
    for row in rows:
        mask = torch.eye(length, dtype=torch.bool)
        size = len(row.targets)
        mask[:size, :size] = row.packed.mask
        masks.append(mask)

    return Sequences(
        torch.stack([padded(row.packed.input_ids, 0) for row in rows]),
        torch.stack([padded(row.packed.position_ids, 0) for row in rows], 1),
        torch.stack(masks),
        torch.stack([padded(row.targets, -1) for row in rows]),
        torch.stack([padded(row.answers.long(), 0) for row in rows]).bool(),
        phrases,
    )

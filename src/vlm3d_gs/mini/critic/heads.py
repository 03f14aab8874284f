"""Linear read-outs for dense supervision of the critic during training; discarded afterwards.

One bit per question is a weak signal. `TokenHeads` predict from each image token what it shows, what the other object
is and in which direction it lies; `WorldHead` predicts that direction in the frame of the scene, from the language
model, which has read the views' names; `PhraseHeads` predict from each noun phrase of a question whether the scene has
such an object, where it is, and in which direction the other one lies, from which the answer to a relation is a small
step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from vlm3d_gs.core.prompts import COLORS, SHAPE_WORDS, SHAPES
from vlm3d_gs.mini.critic.data import DAMAGE_CLASSES, CriticBatch
from vlm3d_gs.mini.world.scenes import SceneSpec


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
        self.spoiled = nn.Linear(width, 1)

    def forward(self, tokens: Tensor, batch: CriticBatch) -> tuple[Tensor, dict[str, float]]:
        """Return the summed loss of all read-outs and some accuracies; tokens [S * V, T, width]."""
        labels = batch.labels
        visible = labels.shape > 0

        # Most tokens show background: at full weight they would dominate.
        weight = torch.where(visible, 1.0, 0.1)
        total = _weighted(self.shape(tokens), labels.shape, weight) + _weighted(
            self.color(tokens), labels.color, weight
        )

        # What the other object is, and where, is defined on objects only.
        other = weight * visible
        total = total + _weighted(self.other_shape(tokens), labels.other_shape, other)
        total = total + _weighted(self.other_color(tokens), labels.other_color, other)
        error = (self.offset(tokens).float() - labels.offset).abs().sum(-1)
        paired = (visible & (labels.other_shape > 0)).float()
        total = total + 2.0 * (error * paired).sum() / paired.sum().clamp_min(1.0)

        damage = self.damage(tokens.mean(1)).float()
        spoiled, known = self.spoiled(tokens)[..., 0].float(), labels.spoiled >= 0
        total = total + 2.0 * F.binary_cross_entropy_with_logits(
            spoiled, labels.spoiled.clamp_min(0.0), weight=known.float()
        )

        with torch.no_grad():
            shape_right = self.shape(tokens).argmax(-1) == labels.shape
            color_right = self.color(tokens).argmax(-1) == labels.color
            other_right = self.other_shape(tokens).argmax(-1) == labels.other_shape
            scalars = {
                "token shape": float(shape_right[visible].float().mean()),
                "token color": float(color_right[visible].float().mean()),
                "token other": float(other_right[visible].float().mean()),
                "token offset": float((error * paired).sum() / paired.sum().clamp_min(1.0)),
                "view damage": float((damage.argmax(-1) == labels.damage).float().mean()),
                "token spoiled": float((spoiled > 0)[labels.spoiled > 0].float().mean()),
                "token sound": float((spoiled <= 0)[labels.spoiled == 0].float().mean()),
            }

        return total + F.cross_entropy(damage, labels.damage), scalars


def _weighted(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.float().movedim(-1, 1), target, reduction="none")
    return (losses * weight).sum() / weight.sum().clamp_min(1.0)


class WorldHead(nn.Module):
    """Linear read-out of the language model's hidden states at image tokens: the other object's direction."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.offset = nn.Linear(width, 3)

    def forward(self, hidden: Tensor, batch: CriticBatch) -> tuple[Tensor, dict[str, float]]:
        """Return the mean distance to the true offset; hidden [S * V, T, width]."""
        labels = batch.labels
        paired = ((labels.shape > 0) & (labels.other_shape > 0)).float()
        error = (self.offset(self.norm(hidden.float())) - labels.world_offset).abs().sum(-1)
        mean = (error * paired).sum() / paired.sum().clamp_min(1.0)

        return mean, {"world offset": float(mean.detach())}


@dataclass(frozen=True)
class PhraseLabels:
    """What the noun phrases of packed questions refer to; P phrases in all."""

    row: Tensor
    """[P] int64 row of the batch."""
    place: Tensor
    """[P] int64 index of the phrase's last word in the sequence."""
    exists: Tensor
    """[P] float32: 1 where the scene has such an object."""
    center: Tensor
    """[P, 3] float32 its centre, world units; 0 where there is none."""
    offset: Tensor
    """[P, 3] float32 from it to the scene's other object, world units; 0 where either is missing."""
    index: Tensor
    """[P] int64 which of the scene's objects it is; 0 where there is none."""

    def to(self, device: str) -> PhraseLabels:
        """Move the tensors."""
        return PhraseLabels(
            self.row.to(device),
            self.place.to(device),
            self.exists.to(device),
            self.center.to(device),
            self.offset.to(device),
            self.index.to(device),
        )


class PhraseHeads(nn.Module):
    """Linear read-outs of the language model's hidden states at noun phrases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.exists = nn.Linear(width, 1)
        self.center = nn.Linear(width, 3)
        self.early_norm = nn.LayerNorm(width)
        self.offset = nn.Linear(width, 3)

    def forward(
        self, hidden: Tensor, early: Tensor, labels: PhraseLabels
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the summed loss of the read-outs and their errors.

        Args:
            hidden: [S, L, width] states from which existence and place are read.
            early: [S, L, width] states from which the offset is read, some layers earlier, so that the layers between
                can compare it with the relation in the question.
            labels: the phrases.
        """
        states = self.norm(hidden[labels.row, labels.place].float())
        exists, center = self.exists(states)[:, 0], self.center(states)
        present = labels.exists > 0
        center_error = (center - labels.center).abs().sum(-1)[present].mean()

        offset = self.offset(self.early_norm(early[labels.row, labels.place].float()))
        paired = labels.offset.abs().sum(-1) > 0
        distance = (offset - labels.offset).abs().sum(-1)
        offset_error = (distance * paired).sum() / paired.sum().clamp_min(1)

        existence = F.binary_cross_entropy_with_logits(exists, labels.exists)
        loss = existence + center_error + 2.0 * offset_error

        with torch.no_grad():
            hits = ((exists > 0) == present).float()
            scalars = {
                "phrase yes": float(hits[present].mean()),
                "phrase no": float(hits[~present].mean()) if bool((~present).any()) else 1.0,
                "phrase place": float(center_error),
                "phrase offset": float(offset_error),
            }

        return loss, scalars


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """One noun phrase of a question and what it refers to."""

    place: int
    """Index of its last word among the question's tokens."""
    exists: bool
    """Whether the scene has such an object."""
    center: tuple[float, float, float]
    """Where it is; zeros if there is none."""
    offset: tuple[float, float, float]
    """From it to the scene's other object; zeros if either is missing."""
    index: int
    """Which of the scene's objects it is; 0 if there is none."""


def noun_phrases(
    tokenizer: PreTrainedTokenizerFast, question: Sequence[int], scene: SceneSpec
) -> list[NounPhrase]:
    """Find the noun phrases of a question: a colour word and a shape word.

    Args:
        tokenizer: one token per word.
        question: token ids.
        scene: ground truth.
    """
    nowhere = (0.0, 0.0, 0.0)
    centers = {(item.color, item.shape): item.center for item in scene.objects}
    words = tokenizer.convert_ids_to_tokens(list(question))

    found = []
    for place in range(1, len(words)):
        color, shape = words[place - 1], words[place]
        if color not in COLORS or shape not in SHAPE_WORDS:
            continue

        name = (color, SHAPE_WORDS[shape])
        center = centers.get(name)
        index = list(centers).index(name) if name in centers else 0

        others = [other for key, other in centers.items() if key != name]
        offset = nowhere
        if center is not None and others:
            x, y, z = (there - here for there, here in zip(others[0], center, strict=True))
            offset = (x, y, z)

        found.append(NounPhrase(place, center is not None, center or nowhere, offset, index))

    return found

"""Linear read-outs that supervise the critic densely while it is trained, and are thrown away afterwards.

One bit a question teaches slowly. `TokenHeads` make each image token say what it shows, what the other object is and
where it lies from here; `WorldHead` asks the same of the language model, which has read the views' names, in the frame
of the scene; `PhraseHeads` make each noun phrase of a question say whether the scene has such an object,
where it is, and in which direction the other one lies: from there the answer to a relation is a small step.
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
        spoiled, known = self.spoiled(tokens)[..., 0].float(), labels.spoiled >= 0
        total = total + 2.0 * F.binary_cross_entropy_with_logits(
            spoiled, labels.spoiled.clamp_min(0.0), weight=known.float()
        )
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
        apart = (self.offset(self.norm(hidden.float())) - labels.world_offset).abs().sum(-1)
        error = (apart * paired).sum() / paired.sum().clamp_min(1.0)
        return error, {"world offset": float(error.detach())}


@dataclass(frozen=True)
class PhraseLabels:
    """What the noun phrases of packed questions refer to; P phrases in all."""

    row: Tensor
    """[P] int64 row of the batch."""
    place: Tensor
    """[P] int64 place of the phrase's last word in the sequence."""
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
        """Return the summed loss of the read-outs and how right they are.

        Args:
            hidden: [S, L, width] states in which existence and place are read.
            early: [S, L, width] states in which the offset is read, some layers before, so that the layers between can
                compare it with the relation that is asked for.
            labels: the phrases.
        """
        said = self.norm(hidden[labels.row, labels.place].float())
        exists, center = self.exists(said)[:, 0], self.center(said)
        present = labels.exists > 0
        apart = (center - labels.center).abs().sum(-1)[present].mean()
        pointed = self.offset(self.early_norm(early[labels.row, labels.place].float()))
        paired = labels.offset.abs().sum(-1) > 0
        missed = (pointed - labels.offset).abs().sum(-1)
        error = (missed * paired).sum() / paired.sum().clamp_min(1)
        loss = F.binary_cross_entropy_with_logits(exists, labels.exists) + apart + 2.0 * error
        with torch.no_grad():
            hits = ((exists > 0) == present).float()
            scalars = {
                "phrase yes": float(hits[present].mean()),
                "phrase no": float(hits[~present].mean()) if bool((~present).any()) else 1.0,
                "phrase place": float(apart),
                "phrase offset": float(error),
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
        tokenizer: one token a word.
        question: token ids.
        scene: ground truth.
    """
    nowhere = (0.0, 0.0, 0.0)
    centers = {(item.color, item.shape): item.center for item in scene.objects}
    words = tokenizer.convert_ids_to_tokens(list(question))
    found = []
    for place in range(1, len(words)):
        if words[place] in SHAPE_WORDS and words[place - 1] in COLORS:
            named = (words[place - 1], SHAPE_WORDS[words[place]])
            center = centers.get(named)
            others = [other for key, other in centers.items() if key != named]
            index = list(centers).index(named) if named in centers else 0
            offset = nowhere
            if center is not None and others:
                x, y, z = (there - here for there, here in zip(others[0], center, strict=True))
                offset = (x, y, z)
            found.append(NounPhrase(place, center is not None, center or nowhere, offset, index))
    return found

"""Where three attention heads of the critic must look while it is trained.

What a small language model must do to answer a relation is known: a shape word gathers the colour before it, an image
token gathers its view's name, and then the noun phrase looks at the image tokens of the object that it names, from
where it can copy in which direction the other object lies. Left to find these routes from Yes and No alone, the model
did not within 11,000 steps (docs/log/embedded-critic.md); told where to look, it takes a few hundred. All else stays
free.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vlm3d_gs.core.prompts import COLORS, SHAPES
from vlm3d_gs.critic.questions.templates import VIEW_NAMES
from vlm3d_gs.mini.critic.data import CriticBatch
from vlm3d_gs.mini.critic.heads import PhraseLabels

GATHER_LAYER, COLOR_HEAD, NAME_HEAD = 0, 0, 1
"""Layer in which words and names are gathered, and its two heads."""
POINT_LAYER, POINT_HEAD = 2, 0
"""Layer and head with which a noun phrase points at its object."""
ATTENTION_FLOOR = 1e-4
"""Added to the attention before the logarithm: a head that looks elsewhere must still feel a slope."""


def route_loss(
    attentions: tuple[Tensor, ...],
    input_ids: Tensor,
    image_mask: Tensor,
    phrases: PhraseLabels,
    batch: CriticBatch,
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[Tensor, dict[str, float]]:
    """Return the mean negative log attention along the three routes, and how much attention goes there.

    Args:
        attentions: [S, heads, L, L] of each layer.
        input_ids: [S, L].
        image_mask: [S, L] bool; the same in each row.
        phrases: the noun phrases of the questions.
        batch: scenes and the labels of their image tokens.
        tokenizer: one token a word.
    """
    gather = attentions[GATHER_LAYER].float()
    row, place = phrases.row, phrases.place
    color = gather[row, COLOR_HEAD, place, place - 1]
    columns = image_mask[0].nonzero()[:, 0].reshape(batch.images.shape[1], -1)
    names = name_positions(input_ids[0], columns[:, 0], tokenizer)
    name = torch.stack(
        [gather[:, NAME_HEAD, view][:, :, at] for view, at in zip(columns, names, strict=True)]
    )
    pointed = attentions[POINT_LAYER][:, POINT_HEAD].float()[row, place]
    shown = visible_objects(batch).to(pointed.device)
    own = (pointed[:, columns.flatten()] * shown[row, phrases.index]).sum(-1)
    seen = (phrases.exists > 0) & shown[row, phrases.index].any(-1)
    point = own[seen]
    losses = [
        -(share + ATTENTION_FLOOR).log().mean() for share in (color, name, point) if share.numel()
    ]
    scalars = {
        "looks at color": float(color.detach().mean()),
        "looks at name": float(name.detach().mean()),
        "looks at object": float(point.detach().mean()) if point.numel() else 0.0,
    }
    return torch.stack(losses).sum(), scalars


def name_positions(
    input_ids: Tensor, starts: Tensor, tokenizer: PreTrainedTokenizerFast
) -> list[int]:
    """Return where the first word of each view's name stands, before its image tokens begin."""
    first = {tokenizer(name, add_special_tokens=False).input_ids[0] for name in VIEW_NAMES}
    ids = input_ids.tolist()
    return [max(place for place in range(int(start)) if ids[place] in first) for start in starts]


def visible_objects(batch: CriticBatch) -> Tensor:
    """Return [S, 2, V * T] bool: which image tokens show the scene's first and second object."""
    labels, n_scenes = batch.labels, len(batch.scenes)
    named = torch.full((2, n_scenes, 2), -1)
    for s, scene in enumerate(batch.scenes):
        for k, item in enumerate(scene.objects):
            named[:, s, k] = torch.tensor(
                [1 + COLORS.index(item.color), 1 + SHAPES.index(item.shape)]
            )
    colors, shapes = named.to(labels.color.device)[..., None]
    color, shape = (label.reshape(n_scenes, 1, -1) for label in (labels.color, labels.shape))
    return (color == colors) & (shape == shapes)

"""Supervision of three attention heads of the critic during training.

The steps by which a small language model can answer a question about a relation are known: a shape word attends to the
colour before it, an image token to its view's name, and then the noun phrase to the image tokens of the object that it
names, from which it can copy the direction of the other object. From Yes and No alone the model did not learn these
routes within 11,000 steps (docs/log/embedded-critic.md); with supervised attention it takes a few hundred. All other
heads stay free.
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
"""Layer that gathers colours and view names, and its two heads."""
POINT_LAYER, POINT_HEAD = 2, 0
"""Layer and head by which a noun phrase attends to its object."""
ATTENTION_FLOOR = 1e-4
"""Added to the attention before the logarithm, so that a head that attends elsewhere has a finite gradient."""


def route_loss(
    attentions: tuple[Tensor, ...],
    input_ids: Tensor,
    image_mask: Tensor,
    phrases: PhraseLabels,
    batch: CriticBatch,
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[Tensor, dict[str, float]]:
    """Return the mean negative log attention along the three routes, and the mean attention along each.

    Args:
        attentions: [S, heads, L, L] of each layer.
        input_ids: [S, L].
        image_mask: [S, L] bool; the same in each row.
        phrases: the noun phrases of the questions.
        batch: scenes and the labels of their image tokens.
        tokenizer: one token per word.
    """
    gather = attentions[GATHER_LAYER].float()
    row, place = phrases.row, phrases.place

    # A shape word attends to the colour, which is the word before it.
    color = gather[row, COLOR_HEAD, place, place - 1]

    # The image tokens of a view attend to the first word of its name.
    columns = image_mask[0].nonzero()[:, 0].reshape(batch.images.shape[1], -1)
    names = name_positions(input_ids[0], columns[:, 0], tokenizer)
    name = torch.stack(
        [gather[:, NAME_HEAD, view][:, :, at] for view, at in zip(columns, names, strict=True)]
    )

    # A noun phrase attends to the image tokens of its object, in any view; objects out of sight have none.
    pointed = attentions[POINT_LAYER][:, POINT_HEAD].float()[row, place]
    visible = visible_objects(batch).to(pointed.device)[row, phrases.index]
    on_object = (pointed[:, columns.flatten()] * visible).sum(-1)
    point = on_object[(phrases.exists > 0) & visible.any(-1)]

    losses = [
        -(attention + ATTENTION_FLOOR).log().mean()
        for attention in (color, name, point)
        if attention.numel()
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
    """Return the index of the first word of each view's name: the last such word before the view's image tokens."""
    first = {tokenizer(name, add_special_tokens=False).input_ids[0] for name in VIEW_NAMES}
    ids = input_ids.tolist()
    return [max(place for place in range(int(start)) if ids[place] in first) for start in starts]


def visible_objects(batch: CriticBatch) -> Tensor:
    """Return [S, 2, V * T] bool: which image tokens show the scene's first and second object."""
    labels, n_scenes = batch.labels, len(batch.scenes)

    # Classes of the objects, as in the labels; -1, which no token has, for a second object that is not there.
    classes = torch.full((2, n_scenes, 2), -1)
    for s, scene in enumerate(batch.scenes):
        for k, item in enumerate(scene.objects):
            classes[0, s, k] = 1 + COLORS.index(item.color)
            classes[1, s, k] = 1 + SHAPES.index(item.shape)

    colors, shapes = classes.to(labels.color.device)[..., None]
    color, shape = (label.reshape(n_scenes, 1, -1) for label in (labels.color, labels.shape))

    return (color == colors) & (shape == shapes)

"""Several questions on one look at the views: one sequence, a shared prefix, and a mask that keeps them apart.

The prefix (system turn, view names, image tokens) is the same for every question, so a language model needs to read it
once. Each question attends to the prefix and to itself only, and its positions start where the prefix ends: its
answer is what it would have been if it had been asked alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedQuestions:
    """Token layout of one sequence with K questions."""

    input_ids: Tensor
    """[L] int64: prefix, then the questions, one after another."""
    position_ids: Tensor
    """[3, L] int64: temporal, height and width position of each token (M-RoPE)."""
    mask: Tensor
    """[L, L] bool: True where a row's token may attend to a column's."""
    answer_index: Tensor
    """[K] int64: place of the last token of each question, whose logits predict the answer."""

    def to(self, device: torch.device) -> PackedQuestions:
        """Move the tensors."""
        return PackedQuestions(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.mask.to(device),
            self.answer_index.to(device),
        )


def mrope_positions(
    input_ids: Sequence[int], image_token_id: int, grids: Tensor, merge_size: int
) -> Tensor:
    """Return M-RoPE positions [3, L] of a sequence with still images.

    Text advances all three axes by one a token. An image's tokens share one temporal position and count rows and
    columns; the text after it starts at the image's first position plus the larger side of its grid.

    Args:
        input_ids: L token ids.
        image_token_id: id of the image placeholder; each run of it is one image, in the order of `grids`.
        grids: [n_images, 3] patches along time, height and width.
        merge_size: patches along each side that become one token.

    Source: Qwen2-VL (Wang et al. 2024, arXiv 2409.12191), section 2.1.
    """
    parts, start, place, image = [], 0, 0, 0
    while place < len(input_ids):
        if input_ids[place] != image_token_id:
            parts.append(torch.full((3, 1), start))
            start, place = start + 1, place + 1
            continue
        rows, columns = (int(side) // merge_size for side in grids[image, 1:])
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        parts.append(torch.stack([torch.zeros_like(row), row, column]).flatten(1) + start)
        start, place, image = start + max(rows, columns), place + rows * columns, image + 1
    return torch.cat(parts, 1)


def pack(
    prefix_ids: Sequence[int], prefix_positions: Tensor, questions: Sequence[Sequence[int]]
) -> PackedQuestions:
    """Lay out K questions behind one prefix.

    Args:
        prefix_ids: P token ids shared by all questions.
        prefix_positions: [3, P] their positions.
        questions: token ids of each question, ending where the answer begins.
    """
    start = int(prefix_positions.max()) + 1
    ids, positions, owner, answers = (
        list(prefix_ids),
        [prefix_positions],
        [-1] * len(prefix_ids),
        [],
    )
    for index, tokens in enumerate(questions):
        ids += list(tokens)
        positions.append((start + torch.arange(len(tokens))).expand(3, -1))
        owner += [index] * len(tokens)
        answers.append(len(ids) - 1)
    owners = torch.tensor(owner)
    causal = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    mask = causal & ((owners[None, :] == -1) | (owners[:, None] == owners[None, :]))
    return PackedQuestions(torch.tensor(ids), torch.cat(positions, 1), mask, torch.tensor(answers))

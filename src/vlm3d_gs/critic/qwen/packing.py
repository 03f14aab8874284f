"""Several questions about the same views in one sequence: a shared prefix, and a mask that keeps questions apart.

The prefix (system turn, view names, image tokens) is the same for every question, so a language model needs to read it
only once. Each question attends to the prefix and to itself, and its positions start where the prefix ends: its answer
is the one it would get in a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PREFIX = -1
"""Owner of the prefix's tokens; those of the questions belong to 0, 1, ..."""


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
    """[K] int64: index of the last token of each question, whose logits predict the answer."""

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

    Text advances all three axes by one per token. An image's tokens share one temporal position and count rows and
    columns; the text after it starts at the image's first position plus the larger side of its grid.

    Args:
        input_ids: L token ids.
        image_token_id: id of the image placeholder; each run of it is one image, in the order of `grids`.
        grids: [n_images, 3] patches along time, height and width.
        merge_size: patches along each side that become one token.

    Source: Qwen2-VL (Wang et al. 2024, arXiv 2409.12191), section 2.1.
    """
    positions = []
    next_position = 0
    index = image = 0

    while index < len(input_ids):
        if input_ids[index] != image_token_id:
            positions.append(torch.full((3, 1), next_position))
            next_position += 1
            index += 1
            continue

        rows, columns = (int(side) // merge_size for side in grids[image, 1:])
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        time = torch.zeros_like(row)
        positions.append(torch.stack([time, row, column]).flatten(1) + next_position)

        next_position += max(rows, columns)
        index += rows * columns
        image += 1

    return torch.cat(positions, 1)


def pack(
    prefix_ids: Sequence[int], prefix_positions: Tensor, questions: Sequence[Sequence[int]]
) -> PackedQuestions:
    """Lay out K questions after one prefix.

    Args:
        prefix_ids: P token ids shared by all questions.
        prefix_positions: [3, P] their positions.
        questions: token ids of each question, ending where the answer begins.
    """
    input_ids = list(prefix_ids)
    positions = [prefix_positions]
    owner = [PREFIX] * len(prefix_ids)
    answer_index = []

    # Every question starts at the same position, as if it alone followed the prefix.
    start = int(prefix_positions.max()) + 1
    for number, tokens in enumerate(questions):
        input_ids += list(tokens)
        positions.append((start + torch.arange(len(tokens))).expand(3, -1))
        owner += [number] * len(tokens)
        answer_index.append(len(input_ids) - 1)

    owners = torch.tensor(owner)
    causal = torch.ones(len(input_ids), len(input_ids), dtype=torch.bool).tril()
    mask = causal & ((owners[None, :] == PREFIX) | (owners[:, None] == owners[None, :]))

    return PackedQuestions(
        torch.tensor(input_ids), torch.cat(positions, 1), mask, torch.tensor(answer_index)
    )

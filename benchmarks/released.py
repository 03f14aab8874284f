"""The critic's step as the released VLM3D code does it, restated on our model, to be timed beside ours.

At every step, for all its pictures in one message: the processor of transformers runs on the host for token ids that
never change, the pictures are cut again on the device for the gradient, a single question is asked, and the logits of
all positions and all words are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlm3d_gs.core.profiling import section
from vlm3d_gs.critic.questions.templates import VIEW_NAMES
from vlm3d_gs.critic.qwen.messages import split_message
from vlm3d_gs.critic.qwen.preprocess import resize, to_patches
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views


def released_log_odds(
    model: YesNoModel, images: Tensor, names: Sequence[str], question: str
) -> Tensor:
    """Return the scalar log-odds of one question about views [V, H, W, 3]; differentiable in the views.

    Args:
        model: with the modules of transformers (`fast_modules=False`).
        images: sRGB in 0 to 1.
        names: one per view.
        question: its text.
    """
    processor = Qwen2VLImageProcessorPil(
        patch_size=model.patch_layout.patch_size,
        merge_size=model.patch_layout.merge_size,
        size={
            "shortest_edge": model.patch_layout.min_pixels,
            "longest_edge": model.patch_layout.max_pixels,
        },
    )

    # The host's work: its result is not needed, but the released code waits for it.
    levels = (255.0 * images.detach().cpu().float()).to(torch.uint8).numpy()
    processor(images=[np.asarray(item) for item in levels], return_tensors="pt")

    patches, grids = to_patches(images.float(), model.patch_layout)
    counts = [int(grid[1] * grid[2]) // model.patch_layout.merge_size**2 for grid in grids]
    prefix, suffixes = split_message(model.tokenizer, names, counts, [question])
    ids = torch.tensor([prefix + suffixes[0]], device=model.device)

    logits = model.network(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=patches.to(model.dtype),
        image_grid_thw=grids,
        mm_token_type_ids=(ids == model.image_token_id).int(),
        use_cache=False,
    ).logits.float()
    return logits[0, -1, model.yes_ids[0]] - logits[0, -1, model.no_ids[0]]


class ReleasedCritic:
    """The same as a `Guidance`: at every step until its weight is zero, on all renders of the step in one message."""

    name = "critic"

    def __init__(self, model: YesNoModel, question: str, *, size_px: int, until: int) -> None:
        self.model, self.question, self.size_px, self.until = model, question, size_px, until

    def is_due(self, progress: Progress) -> bool:
        """Every step before `until`."""
        return progress.step < self.until

    def azimuth_range_deg(self, progress: Progress) -> None:
        """Any."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Nothing."""

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        """Return the gradient with the weight of the first step, 300; the weight does not change the cost."""
        color = views.color.detach().requires_grad_()
        names = [VIEW_NAMES[index % len(VIEW_NAMES)] for index in range(len(color))]

        with torch.enable_grad(), section("critic forward"):
            images = resize(color, (self.size_px, self.size_px))
            odds = released_log_odds(self.model, images, names, self.question)
        with section("critic backward"):
            (gradient,) = torch.autograd.grad(odds, color)

        return GuidanceOutput(-300.0 * gradient, {"log_odds": odds.detach()})

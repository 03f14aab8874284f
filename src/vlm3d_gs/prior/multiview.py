"""Multi-view diffusion with a plain `UNet2DConditionModel`: joint self-attention over the views of one object.

MVDream (Shi et al. 2023, arXiv 2308.16512, section 3.1) changes two things in Stable Diffusion's UNet: every
self-attention runs over the tokens of all views of an object together, and an embedding of the camera is added to the
time embedding. The second is the UNet's own `class_embed_type="projection"`; the first is the processor below.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vlm3d_gs.core.errors import ShapeError


class JointViewAttention:
    """Attention processor: self-attention joins the tokens of `n_views` adjacent batch rows, cross-attention does not.

    Used through `UNet2DConditionModel.set_attn_processor`. Without it a multi-view network runs and gives wrong images.
    """

    def __init__(self, n_views: int) -> None:
        self.n_views = n_views

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend; shapes [B, L, C], B a multiple of n_views, the views of an object adjacent.

        Raises:
            ShapeError: the batch does not divide into groups of n_views.
        """
        batch, length, _ = hidden_states.shape
        context = encoder_hidden_states
        if context is None:
            if batch % self.n_views:
                raise ShapeError(
                    f"A batch of {batch} does not divide into groups of {self.n_views} views. "
                    "Give all views of each object, adjacent."
                )
            hidden_states = hidden_states.reshape(batch // self.n_views, self.n_views * length, -1)
            context = hidden_states

        heads: int = attn.heads  # type: ignore[assignment]
        query, key, value = (
            project(source).unflatten(-1, (heads, -1)).transpose(1, 2)  # type: ignore[operator]
            for project, source in (
                (attn.to_q, hidden_states),
                (attn.to_k, context),
                (attn.to_v, context),
            )
        )

        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        mixed = attn.to_out[0](mixed)  # type: ignore[index, operator]
        return mixed.reshape(batch, length, -1)


def join_views(unet: nn.Module, n_views: int) -> None:
    """Make every self-attention of a diffusers UNet run over groups of `n_views` adjacent rows, in place.

    Does nothing if the first of them already does: walking through all modules would cost a millisecond per step.
    """
    processors = (module.processor for module in unet.modules() if hasattr(module, "processor"))
    first = next(processors, None)
    if not (isinstance(first, JointViewAttention) and first.n_views == n_views):
        unet.set_attn_processor(JointViewAttention(n_views))  # type: ignore[operator]

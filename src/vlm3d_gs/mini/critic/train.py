"""Training of the embedded critic: Yes/No questions and captions, and dense labels on the image tokens.

One bit per question is a weak signal. So, in training only, linear heads (`heads`) predict what each image token and
each noun phrase refers to, three attention heads are supervised (`routes`), and the language model also describes the
scene in words. Ten questions share one pass over the views. The vision tower is trained first, alone; then it is frozen
while the language model learns to read it; at last both are trained together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from vlm3d_gs.critic.qwen.preprocess import to_patches
from vlm3d_gs.mini.critic.data import CriticBatch, sample_critic_batch
from vlm3d_gs.mini.critic.heads import PhraseHeads, TokenHeads, WorldHead
from vlm3d_gs.mini.critic.model import LAYOUT, critic_tokenizer, new_critic
from vlm3d_gs.mini.critic.routes import route_loss
from vlm3d_gs.mini.critic.sequences import TOKENS_PER_VIEW, Sequences, token_sequences
from vlm3d_gs.mini.prior.data import step_rng
from vlm3d_gs.mini.training import Scalars, TrainingPlan, fit, mixed_precision

PLAN = TrainingPlan(steps=8_000, lr=6e-4, warmup_steps=200, decay_fraction=0.5, weight_decay=0.1)
TOWER_ALONE = 0.25
"""First fraction of the run, with the vision tower alone, from the dense labels: a step costs a third there."""
TOGETHER = 0.6
"""Fraction after which both are trained. Until then the tower is frozen: an untrained language model would spoil it."""
FRESH_READ_OUTS = 150
"""Steps after a warm start with the tower frozen: the read-outs are new and would spoil it."""
QUALITY_WEIGHT = 6.0
"""Weight of an answer about geometric quality: of ten questions, one is about that alone, and one about content too."""
QUESTIONS_PER_SCENE = 10
NAMED_LAYER = 2
"""Layers of the language model after which an image token should have read its view's name."""
POINTED_LAYER = 3
"""Layers after which a noun phrase should contain the direction of the other object."""
GROUNDED_LAYER = 4
"""Layers after which it should contain whether and where its object exists."""
MASKED = -1e9
"""Added to the attention logits of masked tokens."""


@dataclass(frozen=True)
class CriticStep:
    """The batch of one step."""

    views: CriticBatch
    sequences: Sequences | None
    """None while only the vision tower is trained."""


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    return critic_tokenizer()


@dataclass(frozen=True)
class CriticDraw:
    """Makes the batch of a step from a seed."""

    seed: int
    n_scenes: int
    alone_until: int
    """Steps in which only the vision tower is trained."""

    def __call__(self, step: int) -> CriticStep:
        """Draw scenes, pictures, labels and questions of a step."""
        rng = step_rng(self.seed, step)
        if step < self.alone_until:
            return CriticStep(sample_critic_batch(rng, self.n_scenes, 1, n_views=4), None)
        views = sample_critic_batch(rng, self.n_scenes, QUESTIONS_PER_SCENE)
        return CriticStep(views, token_sequences(_tokenizer(), views))


class CriticLoss(nn.Module):
    """The critic in training with its read-outs, and the loss of a step."""

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        together_from: int,
    ) -> None:
        super().__init__()
        self.critic, self.tokenizer, self.together_from = model, tokenizer, together_from
        width = model.config.text_config.hidden_size
        self.heads = TokenHeads(model.config.vision_config.out_hidden_size)
        self.phrases, self.world = PhraseHeads(width), WorldHead(width)

        # The routes need the attention weights, which only this implementation returns.
        model.model.language_model.config._attn_implementation = "eager"

    def forward(self, batch: CriticStep, step: int) -> tuple[Tensor, Scalars]:
        """Return the loss of a batch and its terms."""
        device = self.heads.shape.weight.device.type
        views = batch.views.to(device)
        with mixed_precision(device):
            if batch.sequences is None:
                dense, dense_scalars = self.heads(encode_views(self.critic, views)[0], views)
                return dense, {**dense_scalars}

            sequences = batch.sequences.to(device)
            with torch.set_grad_enabled(step >= self.together_from):
                tokens = encode_views(self.critic, views)[0]
            output = read_sequences(self.critic, tokens, sequences)
            total, scalars = self._language_losses(output, views)
            dense, dense_scalars = self.heads(tokens, views)

        return total + dense, {**scalars, **dense_scalars}

    def _language_losses(
        self, output: LanguageOutput, views: CriticBatch
    ) -> tuple[Tensor, Scalars]:
        packed, hidden = output.sequences, output.hidden

        # Dense supervision of intermediate layers.
        image_states = hidden[NAMED_LAYER][output.image_mask].unflatten(0, output.tokens.shape[:2])
        world, world_scalars = self.world(image_states, views)
        grounding, phrase_scalars = self.phrases(
            hidden[GROUNDED_LAYER], hidden[POINTED_LAYER], packed.phrases
        )
        routes, route_scalars = route_loss(
            output.attentions,
            packed.input_ids,
            output.image_mask,
            packed.phrases,
            views,
            self.tokenizer,
        )

        # The task itself: captions and answers are both next-token predictions.
        chosen = packed.targets >= 0
        predicted, targets = output.logits.float()[chosen], packed.targets[chosen]
        losses = F.cross_entropy(predicted, targets, reduction="none")
        yes_no = packed.answers[chosen]
        weights = answer_weights(views).to(losses.device)
        answer = (losses[yes_no] * weights).sum() / weights.sum()
        caption = losses[~yes_no].mean()

        right = (predicted.detach()[yes_no].argmax(-1) == targets[yes_no]).float()
        scalars: Scalars = {"answer": answer.detach(), "caption": caption.detach()}
        scalars |= {**world_scalars, **phrase_scalars, **route_scalars}
        scalars |= _accuracies(views, right)

        return 2.0 * answer + 0.3 * caption + grounding + 2.0 * world + 0.5 * routes, scalars


def answer_weights(views: CriticBatch) -> Tensor:
    """Return the weight of each question's answer, in the order of the batch."""
    return torch.tensor(
        [
            QUALITY_WEIGHT if example.kind in ("geometry", "joint") else 1.0
            for examples in views.examples
            for example in examples
        ]
    )


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
        log: called with lines of progress.
        plan: length and rates.
        warm_start: model folder with initial weights, used if there is no checkpoint yet.
    """
    model, tokenizer = new_critic(seed)
    if warm_start is not None:
        model.load_state_dict(
            Qwen2_5_VLForConditionalGeneration.from_pretrained(warm_start).state_dict()
        )

    alone, together = round(TOWER_ALONE * plan.steps), round(TOGETHER * plan.steps)
    if warm_start is not None:
        alone, together = 0, FRESH_READ_OUTS

    objective = CriticLoss(model, tokenizer, together).to(device)
    draw = CriticDraw(seed, plan.scenes_per_step, alone)
    fit(dict(objective.named_children()), draw, objective, plan, folder, log)

    return model, tokenizer


def _accuracies(batch: CriticBatch, right: Tensor) -> dict[str, float]:
    kinds: dict[str, list[float]] = {}
    flat = [example for examples in batch.examples for example in examples]
    for example, hit in zip(flat, right.tolist(), strict=True):
        kinds.setdefault(("yes " if example.answer else "no ") + example.kind, []).append(hit)
    return {kind: float(np.mean(hits)) for kind, hits in sorted(kinds.items())}


@dataclass(frozen=True)
class LanguageOutput:
    """What the language model computes from a batch."""

    tokens: Tensor
    """[S * V, T, width] of the vision tower."""
    hidden: tuple[Tensor, ...]
    """[S, L, width] before each layer and after the last."""
    attentions: tuple[Tensor, ...]
    """[S, heads, L, L] of each layer."""
    logits: Tensor
    """[S, L, vocabulary]."""
    image_mask: Tensor
    """[S, L] bool."""
    sequences: Sequences


def encode_views(
    model: Qwen2_5_VLForConditionalGeneration, batch: CriticBatch
) -> tuple[Tensor, Tensor]:
    """Run the vision tower: tokens [S * V, T, width] and patch grids [S * V, 3]."""
    patches, grids = to_patches(batch.images.flatten(0, 1), LAYOUT)
    tokens = model.model.visual(patches, grid_thw=grids).pooler_output
    return tokens.unflatten(0, (len(grids), TOKENS_PER_VIEW)), grids


def read_sequences(
    model: Qwen2_5_VLForConditionalGeneration, tokens: Tensor, packed: Sequences
) -> LanguageOutput:
    """Run the language model over each scene's sequence, with its image tokens in place."""
    embeddings = model.get_input_embeddings()(packed.input_ids)
    image_mask = packed.input_ids == model.config.image_token_id
    embeddings = embeddings.masked_scatter(image_mask[..., None], tokens.to(embeddings.dtype))
    mask = torch.where(packed.mask[:, None], 0.0, MASKED).to(embeddings.dtype)

    output = model.model.language_model(
        inputs_embeds=embeddings,
        position_ids=packed.position_ids,
        attention_mask={"full_attention": mask},
        use_cache=False,
        output_hidden_states=True,
        output_attentions=True,
    )

    return LanguageOutput(
        tokens,
        output.hidden_states,
        output.attentions,
        model.lm_head(output.last_hidden_state),
        image_mask,
        packed,
    )

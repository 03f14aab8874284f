"""Qwen-VL models that answer Yes/No questions about several views, differentiable in the images.

None of the code of transformers is changed: the vision tower receives patches cut by `preprocess` and the modules of
`attention`; the language model receives embeddings, positions and a mask. All questions share one pass over the views;
only the answer tokens' rows of the head are evaluated, at the last position of each question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache, PreTrainedTokenizerBase

from vlm3d_gs.core.errors import ConfigError, DeviceError
from vlm3d_gs.core.profiling import count, section
from vlm3d_gs.critic.qwen.attention import use_fast_modules, vision_kwargs
from vlm3d_gs.critic.qwen.loading import Quantization, checkpoint_activations, load_network
from vlm3d_gs.critic.qwen.messages import split_message
from vlm3d_gs.critic.qwen.packing import PackedQuestions, mrope_positions, pack
from vlm3d_gs.critic.qwen.preprocess import as_grid, load_patch_layout, patch_grids, to_patches

YES_WORDS = ("Yes", " Yes", "yes", " yes", "YES")
NO_WORDS = ("No", " No", "no", " no", "NO")
"""Ways to begin an answer; those that a tokenizer has as one token are pooled."""
GRID_COLUMNS = 2


@dataclass
class _Message:
    """What the networks read for given views and questions beside the pixels; built once."""

    packed: PackedQuestions
    image_mask: Tensor
    """[L] bool: which tokens are image tokens."""
    vision_kwargs: dict[str, Any]
    """Arguments of the vision tower beside the patches."""
    text_ids: tuple[int, ...]
    """Token ids before the first image."""
    n_scenes: int
    """Scenes in one batch, each with its own views."""
    graph: Callable[[Tensor], Tensor] | None = None
    """The forward pass as a CUDA graph, once captured."""


class YesNoModel:
    """A Qwen-VL that answers several Yes/No questions about the same views in one pass."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        quantize: Quantization = "none",
        checkpointing: bool = False,
        layout: Literal["images", "grid"] = "images",
        pooled: bool = True,
        cache_text: bool = True,
        fast_modules: bool = True,
        graphs: bool = False,
        resident: bool = True,
    ) -> None:
        """Load weights, tokenizer and patch layout from a folder in the published layout.

        Args:
            folder: with config.json, .safetensors weights, tokenizer and processor files.
            device: where the model runs.
            dtype: of weights and activations.
            quantize: store the language model's weights in fewer bits, on a GPU only.
            checkpointing: recompute activations in the backward pass instead of keeping them.
            layout: one image per view, or one image with all views in a grid.
            pooled: add up the probabilities of all ways to write Yes and No; else only "Yes" and "No" count.
            cache_text: keep the language model's keys and values of the text before the first image. Off with
                `checkpointing`, which cannot use them.
            fast_modules: use the attention and patch embedding of `attention`; else those of transformers, with equal
                results.
            graphs: replay the forward pass as a CUDA graph: one launch instead of thousands. A gradient must be taken
                before the next pass over the same questions.
            resident: stay on the device; else the caller moves `network` there for each answer.

        Raises:
            ConfigError: the folder holds no Qwen-VL, or graphs with checkpointing or moving weights.
            DeviceError: quantised weights or graphs without a GPU.
        """
        if graphs and device.type != "cuda":
            raise DeviceError(
                f"critic.graphs needs a GPU; this run is on {device.type}. Set critic.graphs=false."
            )
        if graphs and (checkpointing or not resident or quantize != "none"):
            raise ConfigError(
                "critic.graphs needs plain weights that stay on the GPU, and no critic.checkpointing. "
                "Set critic.graphs=false."
            )

        self.patch_layout = load_patch_layout(folder)
        self.network = load_network(folder, device, dtype, quantize=quantize, resident=resident)
        if fast_modules:
            use_fast_modules(self.network)
        if checkpointing:
            checkpoint_activations(self.network)

        self.device, self.dtype, self.layout = device, dtype, layout
        self.cache_text, self.graphs = cache_text and not checkpointing, graphs
        self._messages: dict[tuple[object, ...], _Message] = {}
        self._text_caches: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}

        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )
        self.yes_ids = answer_ids(self.tokenizer, YES_WORDS if pooled else YES_WORDS[:1])
        self.no_ids = answer_ids(self.tokenizer, NO_WORDS if pooled else NO_WORDS[:1])
        self._answer_rows = [
            torch.tensor(ids, device=device) for ids in (self.yes_ids, self.no_ids)
        ]

    @property
    def trained_px(self) -> int | None:
        """Side of the images for a model that was trained on one size only (`trained_px` in its config.json)."""
        side = getattr(self.network.config, "trained_px", None)
        return None if side is None else int(side)

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder for one token of an image."""
        return int(self.network.config.image_token_id)

    def log_odds(self, images: Tensor, names: Sequence[str], questions: Sequence[str]) -> Tensor:
        """Return log p(Yes) - log p(No) of each question, at the first token of the answer.

        Args:
            images: [V, H, W, 3], 0 to 1, sRGB, the views of one scene.
            names: V names of the views, as they appear in the message.
            questions: K sentences.

        Returns:
            [K] float32. Differentiable in `images`.
        """
        return self.scene_log_odds(images[None], names, questions)[0]

    @section("critic forward")
    def scene_log_odds(
        self, images: Tensor, names: Sequence[str], questions: Sequence[str]
    ) -> Tensor:
        """Return `log_odds` of several scenes, computed in one batch.

        Args:
            images: [S, V, H, W, 3], 0 to 1, sRGB, the views of S scenes.
            names: V names of the views, the same for all scenes.
            questions: K sentences.

        Returns:
            [S, K] float32. Differentiable in `images`.
        """
        count("critic looks", len(images))
        images = images.to(self.device)
        if self.layout == "grid":
            columns = min(GRID_COLUMNS, images.shape[1])
            images = torch.stack([as_grid(views, columns) for views in images])
            names = (f"One picture of {len(names)} views, row by row: {', '.join(names)}",)

        # Callers may train in mixed precision, but float16 overflows in these models.
        with torch.autocast(self.device.type, enabled=False):
            message = self._message(tuple(names), tuple(questions), tuple(images.shape[:4]))
            patches, _ = to_patches(images.flatten(0, 1).float(), self.patch_layout)
            patches = patches.to(self.dtype)

            if self.graphs:
                return self._replayed_log_odds(message, patches)
            return self._packed_log_odds(message, patches)

    def _replayed_log_odds(self, message: _Message, patches: Tensor) -> Tensor:
        """Return `_packed_log_odds` by a CUDA graph, which is captured at the first call.

        The gradient must be taken before the next call: both share the graph's memory.
        """
        if message.graph is None:
            if self.cache_text:
                self._text_cache(
                    message
                )  # filled here, or the graph would compute it at each replay

            sample = torch.zeros_like(patches, requires_grad=True)
            capture: Any = torch.cuda.make_graphed_callables
            with torch.enable_grad():
                message.graph = capture(partial(self._packed_log_odds, message), (sample,))

        assert message.graph is not None
        return message.graph(patches).clone()  # the next replay overwrites the graph's output

    def _packed_log_odds(self, message: _Message, patches: Tensor) -> Tensor:
        """Return the log-odds [S, K] of a message's questions, from patches of its views."""
        hidden = self._answer_states(message, patches)

        # The head has one row per word of the vocabulary; only those of the answers are multiplied.
        head = self.network.lm_head.weight
        yes, no = (
            torch.logsumexp((hidden @ head[rows].T).float(), -1) for rows in self._answer_rows
        )

        return yes - no

    def _answer_states(self, message: _Message, patches: Tensor) -> Tensor:
        """Return the last hidden states [S, K, width], from which the answers are predicted."""
        model, n_scenes = self.network.model, message.n_scenes
        packed, image_mask = message.packed, message.image_mask

        vision = model.visual(patches, **message.vision_kwargs)
        image_tokens: Tensor = vision.pooler_output
        embeddings = model.get_input_embeddings()(packed.input_ids).expand(n_scenes, -1, -1)
        embeddings = embeddings.masked_scatter(
            image_mask[:, None], image_tokens.to(embeddings.dtype)
        )

        # With the text before the first image in the cache, only what follows it is read.
        start = len(message.text_ids) if self.cache_text else 0
        mask = packed.mask[None, None, start:]
        kwargs: dict[str, Any] = {"use_cache": False, "attention_mask": mask}
        if start:
            kwargs |= {"use_cache": True, "past_key_values": self._text_cache(message)}

        if self.network.config.model_type == "qwen3_vl":
            # Features of earlier vision layers are added to the image tokens in the first text layers.
            kwargs["visual_pos_masks"] = image_mask[start:].expand(n_scenes, -1)
            kwargs["deepstack_visual_embeds"] = vision.deepstack_features
        else:
            # With a mask for each layer type these models build none themselves.
            layer_types = set(model.language_model.config.layer_types)
            kwargs["attention_mask"] = dict.fromkeys(layer_types, mask)

        output = model.language_model(
            inputs_embeds=embeddings[:, start:],
            position_ids=packed.position_ids[:, None, start:].expand(-1, n_scenes, -1),
            **kwargs,
        )
        hidden: Tensor = output.last_hidden_state[:, packed.answer_index - start]

        return hidden

    def _text_cache(self, message: _Message) -> DynamicCache:
        """Return a cache with keys and values of the text before the first image, computed once."""
        config = self.network.model.language_model.config
        if message.text_ids not in self._text_caches:
            self._text_caches[message.text_ids] = self._text_keys_values(message)

        # Reading appends to a cache, so each pass gets a new one; the tensors are shared.
        cache = DynamicCache(config=config)
        for layer, (keys, values) in enumerate(self._text_caches[message.text_ids]):
            batched = (tensor.expand(message.n_scenes, -1, -1, -1) for tensor in (keys, values))
            cache.update(*batched, layer)

        return cache

    @torch.no_grad()
    def _text_keys_values(self, message: _Message) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values [1, heads, length, dim] of each layer for the text before the first image."""
        language_model = self.network.model.language_model
        length = len(message.text_ids)
        ids, positions = message.packed.input_ids, message.packed.position_ids

        cache = DynamicCache(config=language_model.config)
        language_model(
            inputs_embeds=self.network.get_input_embeddings()(ids[None, :length]),
            position_ids=positions[:, None, :length],
            past_key_values=cache,
            use_cache=True,
        )

        return [(layer.keys, layer.values) for layer in cache.layers]

    def _message(
        self,
        names: tuple[str, ...],
        questions: tuple[str, ...],
        size: tuple[int, ...],
    ) -> _Message:
        """Build token ids, positions and masks once for `size`: numbers of scenes and views, height and width."""
        key = (names, questions, size)
        if key in self._messages:
            return self._messages[key]

        n_scenes, n_views, height, width = size
        merge, image_id = self.patch_layout.merge_size, self.image_token_id
        grids = patch_grids(n_views, height, width, self.patch_layout)
        tokens = [int(grid[1] * grid[2]) // merge**2 for grid in grids]

        prefix, question_ids = split_message(self.tokenizer, names, tokens, questions)
        positions = mrope_positions(prefix, image_id, grids, merge)
        packed = pack(prefix, positions, question_ids).to(self.device)

        tower = self.network.model.visual
        self._messages[key] = _Message(
            packed,
            packed.input_ids == image_id,
            vision_kwargs(tower, grids.repeat(n_scenes, 1), self.device),
            tuple(prefix[: prefix.index(image_id)]),
            n_scenes,
        )

        return self._messages[key]

    @torch.no_grad()
    def generate_text(self, request: str, max_tokens: int = 512) -> str:
        """Return the model's answer to a request without images, by greedy decoding."""
        turn = [{"role": "user", "content": [{"type": "text", "text": request}]}]
        text = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        encoded = self.tokenizer(str(text), add_special_tokens=False, return_tensors="pt")
        ids = encoded.input_ids.to(self.device)

        output = self.network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
        )

        answer = output[0, ids.shape[1] :]
        return str(self.tokenizer.decode(answer, skip_special_tokens=True))


def answer_ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> tuple[int, ...]:
    """Return the distinct tokens of `words`, skipping words that are unknown or several tokens.

    Raises:
        ConfigError: the first word is not one token.
    """
    found: list[int] = []
    for word in words:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id and ids[0] not in found:
            found.append(int(ids[0]))
        elif not found:
            raise ConfigError(f"The critic's tokenizer does not know {word!r} as one token.")

    return tuple(found)

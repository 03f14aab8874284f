"""Qwen-VL models as answerers of Yes/No questions about several views, differentiable in the pictures.

Owns transformers' Qwen2-VL, Qwen2.5-VL and Qwen3-VL. None of their code is changed: the vision tower is given patches
that `preprocess` cut and the parts of `attention`, the language model embeddings, positions and a mask. All questions
share one look at the views; only the answer tokens' rows of the head are evaluated, at the last position of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    DynamicCache,
    PreTrainedTokenizerBase,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from vlm3d_gs.core.errors import ConfigError, DeviceError
from vlm3d_gs.core.profiling import section
from vlm3d_gs.critic.qwen.attention import use_fast_modules, vision_kwargs
from vlm3d_gs.critic.qwen.messages import split_message
from vlm3d_gs.critic.qwen.packing import PackedQuestions, mrope_positions, pack
from vlm3d_gs.critic.qwen.preprocess import as_grid, load_patch_layout, patch_grids, to_patches
from vlm3d_gs.prior.loading.pipeline import quiet_loading

YES_WORDS = ("Yes", " Yes", "yes", " yes", "YES")
NO_WORDS = ("No", " No", "no", " no", "NO")
"""Ways to begin an answer; those that a tokenizer knows as one token are pooled."""
GRID_COLUMNS = 2
MODEL_TYPES = {
    "qwen2_vl": Qwen2VLForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": Qwen3VLForConditionalGeneration,
}
"""`model_type` of a folder's config.json -> the class of transformers that reads it."""


@dataclass
class _Message:
    """What a set of views and questions is to the language model; built once."""

    packed: PackedQuestions
    places: Tensor
    """[L] bool: where image tokens go."""
    seeing: dict[str, Any]
    """What the vision tower needs to know beside the patches."""
    text: tuple[int, ...]
    """Token ids before the first image."""
    scenes: int
    """How many sets of views are shown at once."""
    replay: Callable[[Tensor], Tensor] | None = None
    """The look as a CUDA graph, once recorded."""


class YesNoModel:
    """A Qwen-VL that answers several Yes/No questions about the same views in one pass."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        quantize: Literal["none", "8bit", "4bit"] = "none",
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
            device: where the model answers.
            dtype: of weights and activations.
            quantize: hold the language model's matrices in fewer bits, on a GPU only.
            checkpointing: compute activations again in the backward pass instead of keeping them.
            layout: one image a view, or one image with all views in a grid.
            pooled: add up the probabilities of all ways to write Yes and No; else only "Yes" and "No" count.
            cache_text: keep what the text before the first image looks like to the language model. Off with
                `checkpointing`, which cannot use it.
            fast_modules: use the attention and patch embedding of `attention`; else those of transformers, with equal
                results.
            graphs: replay looks as CUDA graphs: one launch instead of thousands. A gradient must be taken before the
                next look at the same questions.
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
        self.patches = load_patch_layout(folder)
        self.network = _load(folder, device, dtype, quantize, resident)
        self.network.requires_grad_(False).eval()
        if fast_modules:
            use_fast_modules(self.network)
        if checkpointing:
            _checkpoint_activations(self.network)
            self.network.train()  # transformers checkpoints in this mode only; Qwen-VL has no dropout
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )
        self.device, self.dtype, self.layout = device, dtype, layout
        self.cache_text, self.graphs = cache_text and not checkpointing, graphs
        self._messages: dict[tuple[object, ...], _Message] = {}
        self._read: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        self.yes_ids = answer_ids(self.tokenizer, YES_WORDS if pooled else YES_WORDS[:1])
        self.no_ids = answer_ids(self.tokenizer, NO_WORDS if pooled else NO_WORDS[:1])
        self._answer_rows = [
            torch.tensor(ids, device=device) for ids in (self.yes_ids, self.no_ids)
        ]

    @property
    def trained_px(self) -> int | None:
        """Side of the pictures that a model knows, where it knows one size only (`trained_px` in its config.json)."""
        side = getattr(self.network.config, "trained_px", None)
        return None if side is None else int(side)

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder that stands for one token of a picture."""
        return int(self.network.config.image_token_id)

    def log_odds(self, images: Tensor, names: Sequence[str], questions: Sequence[str]) -> Tensor:
        """Return log p(Yes) - log p(No) of each question, at the first answered token.

        Args:
            images: [V, H, W, 3], 0 to 1, sRGB, the views of one scene.
            names: V names of the views, as the message gives them.
            questions: K sentences.

        Returns:
            [K] float32. Differentiable in `images`.
        """
        return self.scene_log_odds(images[None], names, questions)[0]

    @section("critic forward")
    def scene_log_odds(
        self, images: Tensor, names: Sequence[str], questions: Sequence[str]
    ) -> Tensor:
        """Return what `log_odds` does for several scenes in one batch.

        Args:
            images: [S, V, H, W, 3], 0 to 1, sRGB, the views of S scenes.
            names: V names of the views, the same for all scenes.
            questions: K sentences.

        Returns:
            [S, K] float32. Differentiable in `images`.
        """
        images = images.to(self.device)
        if self.layout == "grid":
            columns = min(GRID_COLUMNS, images.shape[1])
            images = torch.stack([as_grid(views, columns) for views in images])
            names = (f"One picture of {len(names)} views, row by row: {', '.join(names)}",)
        with torch.autocast(self.device.type, enabled=False):  # float16 overflows in these models
            message = self._message(tuple(names), tuple(questions), tuple(images.shape[:4]))
            patches, _ = to_patches(images.flatten(0, 1).float(), self.patches)
            patches = patches.to(self.dtype)
            return self._replay(message, patches) if self.graphs else self._odds(message, patches)

    def _replay(self, message: _Message, patches: Tensor) -> Tensor:
        """Return what `_odds` does, by a CUDA graph of it that is recorded at the first call.

        The gradient must be taken before the next call: both share the graph's memory.
        """
        if message.replay is None:
            if self.cache_text:
                self._read_text(message)  # outside of the graph
            sample = torch.zeros_like(patches, requires_grad=True)
            with torch.enable_grad():
                record: Any = torch.cuda.make_graphed_callables
                message.replay = record(partial(self._odds, message), (sample,))
        assert message.replay is not None
        return message.replay(patches).clone()

    def _odds(self, message: _Message, patches: Tensor) -> Tensor:
        """Return the log-odds [S, K] of a message's questions, from patches of its views."""
        hidden, head = self._answers(message, patches), self.network.lm_head.weight
        said = [torch.logsumexp((hidden @ head[rows].T).float(), -1) for rows in self._answer_rows]
        return said[0] - said[1]

    def _answers(self, message: _Message, patches: Tensor) -> Tensor:
        """Return the last hidden states [S, K, width] of the questions."""
        model, scenes = self.network.model, message.scenes
        seen = model.visual(patches, **message.seeing)
        tokens: Tensor = seen.pooler_output
        packed, places = message.packed, message.places
        embedded = model.get_input_embeddings()(packed.input_ids).expand(scenes, -1, -1)
        embedded = embedded.masked_scatter(places[:, None], tokens.to(embedded.dtype))
        start = len(message.text) if self.cache_text else 0
        more: dict[str, Any] = {"use_cache": False}
        if start:
            more = {"use_cache": True, "past_key_values": self._read_text(message)}
        mask = packed.mask[None, None, start:]
        if self.network.config.model_type == "qwen3_vl":
            more["visual_pos_masks"] = places[start:].expand(scenes, -1)
            more["deepstack_visual_embeds"] = seen.deepstack_features
        else:
            kinds = set(model.language_model.config.layer_types)
            more["attention_mask"] = dict.fromkeys(kinds, mask)
        read = model.language_model(
            inputs_embeds=embedded[:, start:],
            position_ids=packed.position_ids[:, None, start:].expand(-1, scenes, -1),
            **({"attention_mask": mask} | more),
        )
        hidden: Tensor = read.last_hidden_state[:, packed.answer_index - start]
        return hidden

    def _read_text(self, message: _Message) -> DynamicCache:
        """Return keys and values of the text before the first image, computed once."""
        config = self.network.model.language_model.config
        if message.text not in self._read:
            length = len(message.text)
            ids, positions = message.packed.input_ids, message.packed.position_ids
            fresh = DynamicCache(config=config)
            with torch.no_grad():
                self.network.model.language_model(
                    inputs_embeds=self.network.get_input_embeddings()(ids[None, :length]),
                    position_ids=positions[:, None, :length],
                    past_key_values=fresh,
                    use_cache=True,
                )
            self._read[message.text] = [(layer.keys, layer.values) for layer in fresh.layers]
        cache = DynamicCache(config=config)
        for index, (keys, values) in enumerate(self._read[message.text]):
            cache.update(
                *(part.expand(message.scenes, -1, -1, -1) for part in (keys, values)), index
            )
        return cache

    def _message(
        self,
        names: tuple[str, ...],
        questions: tuple[str, ...],
        size: tuple[int, ...],
    ) -> _Message:
        """Build token ids, positions and masks once for `size`: numbers of scenes and views, height and width."""
        key = (names, questions, size)
        if key not in self._messages:
            merge, image = self.patches.merge_size, self.image_token_id
            scenes, views, height, width = size
            grids = patch_grids(views, height, width, self.patches)
            counts = [int(grid[1] * grid[2]) // merge**2 for grid in grids]
            prefix, asked = split_message(self.tokenizer, names, counts, questions)
            positions = mrope_positions(prefix, image, grids, merge)
            packed = pack(prefix, positions, asked).to(self.device)
            self._messages[key] = _Message(
                packed,
                packed.input_ids == image,
                vision_kwargs(self.network.model.visual, grids.repeat(scenes, 1), self.device),
                tuple(prefix[: prefix.index(image)]),
                scenes,
            )
        return self._messages[key]

    @torch.no_grad()
    def generate_text(self, request: str, max_tokens: int = 512) -> str:
        """Return the model's answer to a request without pictures, most likely words first."""
        turn = [{"role": "user", "content": [{"type": "text", "text": request}]}]
        text = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        encoded = self.tokenizer(str(text), add_special_tokens=False, return_tensors="pt")
        ids = encoded.input_ids.to(self.device)
        written = self.network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
        )
        return str(self.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))


def _checkpoint_activations(network: Any) -> None:
    """Switch checkpointing on by the name that this version of transformers has for it."""
    enable = getattr(network, "activation_checkpointing_enable", None)
    (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})


def answer_ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> tuple[int, ...]:
    """Return the distinct tokens that `words` are, leaving out those that are several tokens or unknown.

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


def _load(
    folder: Path, device: torch.device, dtype: torch.dtype, quantize: str, resident: bool
) -> Any:
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind not in MODEL_TYPES:
        raise ConfigError(
            f"{folder} holds a {kind!r}. A critic with gradients must be one of {', '.join(MODEL_TYPES)}."
        )
    more: dict[str, Any] = {}
    if quantize != "none":
        if device.type != "cuda":
            raise DeviceError(
                f"critic.quantize is {quantize!r}, which needs a GPU; this run is on {device.type}. "
                "Set critic.quantize=none."
            )
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=quantize == "8bit",
            load_in_4bit=quantize == "4bit",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_type="nf4",
        )
        more["device_map"] = {"": device}
    with quiet_loading():
        network = MODEL_TYPES[kind].from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, **more
        )
    return network.to(device) if resident and quantize == "none" else network

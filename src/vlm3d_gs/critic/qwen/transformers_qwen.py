"""The Qwen-VL networks of transformers: every family and size, quantised or checkpointed if asked.

None of the code of transformers is changed: the vision tower receives patches cut by `preprocess` and the modules of
`attention`; the language model receives embeddings, positions and a mask.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, DynamicCache

from vlm3d_gs.critic.qwen.attention import use_fast_modules, vision_kwargs
from vlm3d_gs.critic.qwen.loading import checkpoint_activations, load_network
from vlm3d_gs.critic.qwen.messages import ChatTokenizer
from vlm3d_gs.critic.qwen.network import Message, Quantization, Reader


class TransformersQwen:
    """A Qwen2-VL, Qwen2.5-VL or Qwen3-VL of transformers, as a `Qwen`."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        *,
        quantize: Quantization = "none",
        checkpointing: bool = False,
        cache_text: bool = True,
        fast_modules: bool = True,
        resident: bool = True,
    ) -> None:
        """Load the weights; for the arguments see `YesNoModel`.

        Raises:
            ConfigError: the folder holds no Qwen-VL.
            DeviceError: quantised weights without a GPU.
        """
        self.network = load_network(folder, device, dtype, quantize=quantize, resident=resident)
        if fast_modules:
            use_fast_modules(self.network)
        if checkpointing:
            checkpoint_activations(self.network)

        self.device, self.cache_text = device, cache_text and not checkpointing
        self.fast_modules = fast_modules
        self._text_caches: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}

    @property
    def runtime(self) -> str:
        """Transformers."""
        return "transformers"

    @property
    def module(self) -> nn.Module:
        """The network of transformers."""
        module: nn.Module = self.network
        return module

    @property
    def head(self) -> Tensor:
        """[words, width]: hidden states times these are the logits of the words."""
        weight: Tensor = self.network.lm_head.weight
        return weight

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder for one token of an image."""
        return int(self.network.config.image_token_id)

    @property
    def trained_px(self) -> int | None:
        """Side of the images for a model that was trained on one size only."""
        side = getattr(self.network.config, "trained_px", None)
        return None if side is None else int(side)

    def reader(self, message: Message) -> Reader:
        """Return the hidden states [S, K, width] at the answers as a function of the patches."""
        arguments = vision_kwargs(self.network.model.visual, message.grids, self.device)
        # Found here: a mask's size, on a device, is known only after waiting for it.
        image_index = message.image_index
        if self.cache_text:
            self._text_cache(
                message
            )  # filled here, or a CUDA graph would compute it at each replay

        return partial(self._answer_states, message, image_index, arguments)

    def _answer_states(
        self, message: Message, image_index: Tensor, arguments: dict[str, Any], patches: Tensor
    ) -> Tensor:
        """Return the last hidden states [S, K, width], from which the answers are predicted.

        Args:
            message: what is read beside the pixels.
            image_index: [tokens], where one scene's image tokens are in the message.
            arguments: of the vision tower.
            patches: of all scenes' views.
        """
        model, n_scenes = self.network.model, message.n_scenes
        packed = message.packed

        vision = model.visual(patches, **arguments)
        image_tokens: Tensor = vision.pooler_output
        embeddings = model.get_input_embeddings()(packed.input_ids).expand(n_scenes, -1, -1)
        image_tokens = image_tokens.to(embeddings.dtype).unflatten(0, (n_scenes, -1))
        embeddings = embeddings.index_copy(1, image_index, image_tokens)

        # With the text before the first image in the cache, only what follows it is read.
        start = len(message.text_ids) if self.cache_text else 0
        mask = packed.mask[None, None, start:]
        kwargs: dict[str, Any] = {"use_cache": False, "attention_mask": mask}
        if start:
            kwargs |= {"use_cache": True, "past_key_values": self._text_cache(message)}

        if self.network.config.model_type == "qwen3_vl":
            # Features of earlier vision layers are added to the image tokens in the first text layers.
            mask_of_images = message.image_mask[start:].expand(n_scenes, -1)
            places = image_index - start if self.fast_modules else mask_of_images
            kwargs["visual_pos_masks"] = places
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

    def _text_cache(self, message: Message) -> DynamicCache:
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
    def _text_keys_values(self, message: Message) -> list[tuple[Tensor, Tensor]]:
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

    @torch.no_grad()
    def generate(self, ids: Tensor, most: int) -> Tensor:
        """Return the tokens [N] with N <= most that follow the text [L], by greedy decoding."""
        output: Tensor = self.network.generate(
            input_ids=ids[None],
            attention_mask=torch.ones_like(ids[None]),
            max_new_tokens=most,
            do_sample=False,
        )
        return output[0, len(ids) :]


def load_tokenizer(folder: Path) -> ChatTokenizer:
    """Load the tokenizer of a Qwen-VL, with its chat template."""
    tokenizer: ChatTokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer

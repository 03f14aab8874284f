"""Qwen-VL models that answer Yes/No questions about several views, differentiable in the images.

All questions share one pass over the views; only the answer tokens' rows of the head are evaluated, at the last
position of each question. The network behind it is our own plain torch or that of transformers (`runtime`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vlm3d_gs.core.errors import ConfigError, DeviceError
from vlm3d_gs.core.profiling import count, section
from vlm3d_gs.core.recording import cuda_recorder
from vlm3d_gs.critic.qwen.messages import ChatTokenizer, split_message
from vlm3d_gs.critic.qwen.network import Message, Quantization, Reader
from vlm3d_gs.critic.qwen.packing import mrope_positions, pack
from vlm3d_gs.critic.qwen.preprocess import as_grid, cut_patches, load_patch_layout, patch_grids
from vlm3d_gs.critic.qwen.runtime import Runtime, load_qwen

YES_WORDS = ("Yes", " Yes", "yes", " yes", "YES")
NO_WORDS = ("No", " No", "no", " no", "NO")
"""Ways to begin an answer; those that a tokenizer has as one token are pooled."""
GRID_COLUMNS = 2


class YesNoModel:
    """A Qwen-VL that answers several Yes/No questions about the same views in one pass."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        runtime: Runtime = "auto",
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
            runtime: what computes the network. torch: our own code, for small Qwen2.5-VLs without `quantize` and
                `checkpointing`; transformers: any Qwen-VL; auto: torch where it can.
            quantize: store the language model's weights in fewer bits, on a GPU only.
            checkpointing: recompute activations in the backward pass instead of keeping them.
            layout: one image per view, or one image with all views in a grid.
            pooled: add up the probabilities of all ways to write Yes and No; else only "Yes" and "No" count.
            cache_text: keep the language model's keys and values of the text before the first image. Off with
                `checkpointing`, which cannot use them.
            fast_modules: use the attention and patch embedding of `attention`; else those of transformers, with equal
                results.
            graphs: record both passes as CUDA graphs: one launch instead of thousands (`core.recording`).
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
        self.qwen, self.tokenizer = load_qwen(
            folder,
            device,
            dtype,
            runtime,
            quantize=quantize,
            checkpointing=checkpointing,
            cache_text=cache_text,
            fast_modules=fast_modules,
            resident=resident,
        )
        self.device, self.dtype, self.layout = device, dtype, layout
        self.recorder = cuda_recorder(device) if graphs else None
        self._readers: dict[tuple[object, ...], Reader] = {}

        self.yes_ids = answer_ids(self.tokenizer, YES_WORDS if pooled else YES_WORDS[:1])
        self.no_ids = answer_ids(self.tokenizer, NO_WORDS if pooled else NO_WORDS[:1])
        self._answer_rows = [
            torch.tensor(ids, device=device) for ids in (self.yes_ids, self.no_ids)
        ]

    @property
    def network(self) -> nn.Module:
        """All weights, to be moved by those who loaded it with `resident` false."""
        return self.qwen.module

    @property
    def trained_px(self) -> int | None:
        """Side of the images for a model that was trained on one size only (`trained_px` in its config.json)."""
        return self.qwen.trained_px

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder for one token of an image."""
        return self.qwen.image_token_id

    def forget_questions(self) -> None:
        """Drop what was built for the messages so far, as between two runs that share the model."""
        self._readers.clear()
        if self.recorder is not None:
            self.recorder = cuda_recorder(self.device)

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
            named = f": {', '.join(names)}" if all(names) else ""
            names = (f"One picture of {len(names)} views, row by row{named}",)

        # Callers may train in mixed precision, but float16 overflows in these models.
        with torch.autocast(self.device.type, enabled=False):
            message = (tuple(names), tuple(questions))
            look = partial(self._look, self._reader(*message, tuple(images.shape[:4])))
            if self.recorder is None:
                return look(images.float())
            return self.recorder.call(("critic", *message), look, images.float())

    def _look(self, reader: Reader, images: Tensor) -> Tensor:
        """Return the log-odds [S, K] of images [S, V, H, W, 3]."""
        patches = cut_patches(images.flatten(0, 1), self.patch_layout)
        return reader(patches.to(self.dtype))

    @torch.inference_mode(False)  # kept for later calls, which may need a gradient
    def _reader(
        self, names: tuple[str, ...], questions: tuple[str, ...], size: tuple[int, ...]
    ) -> Reader:
        """Return the log-odds [S, K] of questions as a function of patches; built once for each message.

        Args:
            names: of the views.
            questions: K sentences.
            size: numbers of scenes and views, height and width.
        """
        key = (names, questions, size)
        if key not in self._readers:
            states = self.qwen.reader(self._message(names, questions, size))
            self._readers[key] = partial(self._read, states)

        return self._readers[key]

    def _read(self, states: Reader, patches: Tensor) -> Tensor:
        """Return the log-odds [S, K] from the hidden states at the answers."""
        hidden = states(patches)

        # The head has one row per word of the vocabulary; only those of the answers are multiplied.
        head = self.qwen.head
        yes, no = (
            torch.logsumexp((hidden @ head[rows].T).float(), -1) for rows in self._answer_rows
        )

        return yes - no

    def _message(
        self, names: tuple[str, ...], questions: tuple[str, ...], size: tuple[int, ...]
    ) -> Message:
        """Return token ids, positions and masks of a message; for the arguments see `_reader`."""
        n_scenes, n_views, height, width = size
        merge, image_id = self.patch_layout.merge_size, self.image_token_id
        grids = patch_grids(n_views, height, width, self.patch_layout)
        tokens = [int(grid[1] * grid[2]) // merge**2 for grid in grids]

        prefix, question_ids = split_message(self.tokenizer, names, tokens, questions)
        positions = mrope_positions(prefix, image_id, grids, merge)
        packed = pack(prefix, positions, question_ids)
        image_mask = packed.input_ids == image_id

        return Message(
            packed.to(self.device),
            image_mask.to(self.device),
            image_mask.nonzero()[:, 0].to(self.device),
            grids.repeat(n_scenes, 1),
            tuple(prefix[: prefix.index(image_id)]),
            n_scenes,
        )

    @torch.no_grad()
    def generate_text(self, request: str, max_tokens: int = 512) -> str:
        """Return the model's answer to a request without images, by greedy decoding."""
        turn = [{"role": "user", "content": [{"type": "text", "text": request}]}]
        text = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer.encode(str(text), add_special_tokens=False)

        answer = self.qwen.generate(torch.tensor(ids, device=self.device), max_tokens)
        return str(self.tokenizer.decode(answer.tolist(), skip_special_tokens=True))


def answer_ids(tokenizer: ChatTokenizer, words: Sequence[str]) -> tuple[int, ...]:
    """Return the distinct tokens of `words`, skipping words that are unknown or several tokens.

    Raises:
        ConfigError: the first word is not one token.
    """
    found: list[int] = []
    for word in words:
        ids = tokenizer.encode(word, add_special_tokens=False)
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id and ids[0] not in found:
            found.append(int(ids[0]))
        elif not found:
            raise ConfigError(f"The critic's tokenizer does not know {word!r} as one token.")

    return tuple(found)

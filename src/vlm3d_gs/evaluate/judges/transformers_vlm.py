"""A judge by any vision-language model that transformers can load: InternVL3, Gemma 3, Qwen3-VL, LLaVA.

Numbers come from an answer in words, written without sampling; Yes or No from the probabilities of its first word. The
probability of Yes among all words is VQAScore (Lin et al. 2024, arXiv 2404.01291), with the question that its authors'
t2v_metrics asks by default.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlm3d_gs.core.errors import InputFileError, ModelError
from vlm3d_gs.core.images import BROKEN_PICTURE
from vlm3d_gs.critic.qwen.yes_no import NO_WORDS, YES_WORDS
from vlm3d_gs.evaluate.judges import Answer, Look
from vlm3d_gs.evaluate.judges.replies import read_choices

MOST_TOKENS = 1024
"""Longest answer in words."""
LEAST = 1e-9
"""Least probability of Yes or No of which log-odds are taken."""


class TransformersJudge:
    """Asks a model of transformers, one look after the other.

    Args:
        model: folder, or id on the hub.
        device: where it runs.
        dtype: of its weights.
        offline: never contact the hub.
    """

    writes = True

    def __init__(
        self, model: str, device: torch.device, dtype: torch.dtype, *, offline: bool = False
    ) -> None:
        """Load the model.

        Raises:
            ModelError: it cannot be found, or is no model for pictures and text.
        """
        self._model_name, self.device, self.dtype = model, device, dtype
        try:
            self._processor = AutoProcessor.from_pretrained(model, local_files_only=offline)
            self._network = AutoModelForImageTextToText.from_pretrained(
                model, dtype=dtype, local_files_only=offline, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(
                f"The judge {model} cannot be loaded: {str(error)[:300]}. Give a folder or a hub id of a model for "
                "pictures and text, with .safetensors weights and its processor's files. Most processors need "
                "torchvision: pip install 'vlm3d-gs[judges]'."
            ) from error
        self._network.to(device).eval()

        tokenizer = self._processor.tokenizer
        self._yes, self._no = (_first_tokens(tokenizer, words) for words in (YES_WORDS, NO_WORDS))

    @property
    def name(self) -> str:
        """Folder or id."""
        return self._model_name

    @property
    def identity(self) -> str:
        """Model and its revision, where the hub says one."""
        revision = getattr(self._network.config, "_commit_hash", None)
        return f"transformers {self._model_name} {revision} {self.dtype} greedy {MOST_TOKENS}"

    def ask(self, looks: Sequence[Look]) -> list[Answer]:
        """Return the answers, in order."""
        return [self._one(look) for look in looks]

    def _one(self, look: Look) -> Answer:
        begin = time.monotonic()
        try:
            inputs = self._inputs(look)
        except BROKEN_PICTURE as error:
            return Answer(failure=f"a picture cannot be read: {error}")
        read = int(inputs["input_ids"].shape[1])
        with torch.no_grad():
            answer = self._numbers(look, inputs) if look.choices else self._yes_no(inputs)
        written = len(self._processor.tokenizer(answer.text)["input_ids"]) if answer.text else 1
        return Answer(
            answer.log_odds,
            answer.choices,
            answer.text,
            answer.probability,
            read,
            written,
            time.monotonic() - begin,
            answer.failure,
        )

    def _inputs(self, look: Look) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for index, picture in enumerate(look.pictures):
            if look.names and look.names[index]:
                content.append({"type": "text", "text": f"{look.names[index]}: "})
            with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
                content.append({"type": "image", "image": image.convert("RGB")})
        content.append({"type": "text", "text": look.text})

        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        return {
            name: value.to(self.device, self.dtype)
            if value.is_floating_point()
            else value.to(self.device)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }

    def _yes_no(self, inputs: dict[str, Any]) -> Answer:
        logits = self._network(**inputs).logits[0, -1].float()
        chances = torch.softmax(logits, dim=-1)
        yes, no = (float(chances[ids].sum()) for ids in (self._yes, self._no))
        odds = torch.tensor([yes, no], dtype=torch.float64).clamp_min(LEAST).log()
        return Answer(log_odds=float(odds[0] - odds[1]), probability=yes)

    def _numbers(self, look: Look, inputs: dict[str, Any]) -> Answer:
        tokens = self._network.generate(**inputs, do_sample=False, max_new_tokens=MOST_TOKENS)
        words = tokens[0, inputs["input_ids"].shape[1] :]
        text = self._processor.tokenizer.decode(words, skip_special_tokens=True)
        try:
            return Answer(choices=read_choices(text, look.choices), text=text)
        except InputFileError as error:
            return Answer(text=text, failure=str(error))


def _first_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """Return the tokens that are a whole way to write a word."""
    found = {
        ids[0]
        for word in words
        if len(ids := tokenizer.encode(word, add_special_tokens=False)) == 1
    }
    if not found:
        raise ModelError(f"The judge's tokenizer has no single token for any of {words}.")
    return sorted(found)

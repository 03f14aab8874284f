"""A critic behind an OpenAI-compatible server, such as a local vLLM: scores, no gradients.

Each question is one request with all views as pictures. Where the server tells log-probabilities of the first token,
the score is that of Yes against No; where it does not, the word that it wrote counts as a fixed score.
"""

from __future__ import annotations

import base64
import io
import json
import math
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from vlm3d_gs.config import ServerConfig
from vlm3d_gs.core.errors import InputFileError, ModelError
from vlm3d_gs.core.images import encode_png
from vlm3d_gs.critic.questions.templates import Question

WORD_LOG_ODDS = 5.0
"""Log-odds of a plain Yes from a server that tells no probabilities."""
MAX_CONCURRENT_REQUESTS = 8
"""Requests in flight."""
TOP_TOKENS = 20
"""Log-probabilities asked for; the most that the protocol allows."""


class ServerScorer:
    """Asks a server the questions of a prompt about groups of named views."""

    def __init__(self, config: ServerConfig, questions: Sequence[Question]) -> None:
        """Read the key, if there is one; nothing is sent yet.

        Raises:
            InputFileError: the key's file cannot be read.
        """
        self.config, self.questions = config, tuple(questions)
        self._key = None
        if config.key_file is not None:
            try:
                self._key = Path(config.key_file).expanduser().read_text().strip()
            except OSError as error:
                raise InputFileError(
                    f"critic.server.key_file {config.key_file} cannot be read ({error})."
                ) from error

    def answers(self, images: Tensor, names: Sequence[str]) -> dict[str, float]:
        """Return the log-odds of each question about one group of named views [V, H, W, 3].

        Raises:
            ModelError: the server cannot be reached, refuses, or answers what is no chat completion.
        """
        shown: list[dict[str, Any]] = []
        for name, image in zip(names, images, strict=True):
            address = "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
            shown += [
                {"type": "text", "text": f"{name}: "},
                {"type": "image_url", "image_url": {"url": address}},
            ]
        texts = [question.text for question in self.questions]
        with ThreadPoolExecutor(min(MAX_CONCURRENT_REQUESTS, len(texts))) as pool:
            odds = list(pool.map(lambda text: self._ask(shown, text), texts))
        return {q.name: value for q, value in zip(self.questions, odds, strict=True)}

    def scores(self, images: Tensor, names: Sequence[str]) -> list[float]:
        """Return the weighted mean log-odds over the questions, of each scene of [S, V, H, W, 3].

        Raises:
            ModelError: as `answers`.
        """
        total = sum(question.weight for question in self.questions)
        told = [self.answers(scene, names) for scene in images]
        return [sum(q.weight * said[q.name] for q in self.questions) / total for said in told]

    def _ask(self, shown: list[dict[str, Any]], text: str) -> float:
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}],
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": TOP_TOKENS,
        }
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        address = f"{self.config.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.config.timeout_s) as reply:
                return reply_log_odds(json.loads(reply.read()))
        except urllib.error.HTTPError as error:
            said = io.TextIOWrapper(error, errors="replace").read(300)
            raise ModelError(f"The server at {address} refused ({error.code}): {said}") from None
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ModelError(
                f"The server at {address} gave no answer ({error!r}). Check critic.server.url and .model, "
                "and that it speaks OpenAI's chat completions with pictures."
            ) from error


def reply_log_odds(reply: dict[str, Any]) -> float:
    """Return log p(Yes) - log p(No) of a chat completion's first token.

    A word that is not among the told tokens counts as the least likely of them. Without probabilities the written word
    decides, and any other word than Yes and No scores 0.
    """
    choice = reply["choices"][0]
    told = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
    if not told:
        word = _plain(choice["message"]["content"] or "")
        return (
            WORD_LOG_ODDS
            if word.startswith("yes")
            else -WORD_LOG_ODDS
            if word.startswith("no")
            else 0.0
        )
    found = {"yes": -math.inf, "no": -math.inf}
    for item in told:
        word = _plain(item["token"])
        if word in found:
            found[word] = _add(found[word], float(item["logprob"]))
    least = min(float(item["logprob"]) for item in told)
    yes, no = (value if value > -math.inf else least for value in found.values())
    return yes - no


def _plain(word: str) -> str:
    return word.strip().strip(".,!\"'").lower()


def _add(first: float, second: float) -> float:
    """Return log(e^first + e^second)."""
    high, low = max(first, second), min(first, second)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))

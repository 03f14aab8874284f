"""A critic behind an OpenAI-compatible server, such as a local vLLM: scores, no gradients.

Each question is one request with all views as images. If the server returns log-probabilities of the first token, the
score is the log-odds of Yes against No; if not, the word in its answer counts as a fixed score.
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
"""Log-odds of the word Yes from a server that returns no probabilities."""
MAX_CONCURRENT_REQUESTS = 8
"""Requests sent at the same time."""
TOP_TOKENS = 20
"""Log-probabilities requested; the most that the protocol allows."""


class ServerScorer:
    """Scores groups of named views by the answers of a server to the questions of a prompt."""

    def __init__(self, config: ServerConfig, questions: Sequence[Question]) -> None:
        """Read the key, if one is configured; nothing is sent yet.

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
            ModelError: the server cannot be reached, refuses, or its answer is not a chat completion.
        """
        views: list[dict[str, Any]] = []
        for name, image in zip(names, images, strict=True):
            url = "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
            views += [
                {"type": "text", "text": f"{name}: "},
                {"type": "image_url", "image_url": {"url": url}},
            ]

        texts = [question.text for question in self.questions]
        with ThreadPoolExecutor(min(MAX_CONCURRENT_REQUESTS, len(texts))) as pool:
            log_odds = list(pool.map(lambda text: self._ask(views, text), texts))

        return {question.name: z for question, z in zip(self.questions, log_odds, strict=True)}

    def scores(self, images: Tensor, names: Sequence[str]) -> list[float]:
        """Return the weighted mean log-odds over the questions, of each scene of [S, V, H, W, 3].

        Raises:
            ModelError: as `answers`.
        """
        total = sum(question.weight for question in self.questions)
        answers = [self.answers(scene, names) for scene in images]
        return [
            sum(question.weight * scene[question.name] for question in self.questions) / total
            for scene in answers
        ]

    def _ask(self, views: list[dict[str, Any]], text: str) -> float:
        """Return the log-odds of one question, from one request."""
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": [*views, {"type": "text", "text": text}]}],
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
            reason = io.TextIOWrapper(error, errors="replace").read(300)
            raise ModelError(f"The server at {address} refused ({error.code}): {reason}") from None
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ModelError(
                f"The server at {address} gave no answer ({error!r}). Check critic.server.url and .model, "
                "and that it supports OpenAI's chat completions with images."
            ) from error


def reply_log_odds(reply: dict[str, Any]) -> float:
    """Return log p(Yes) - log p(No) of a chat completion's first token.

    A word that is not among the returned tokens counts as the least likely of them. Without probabilities the word of
    the answer decides, and any word other than Yes and No scores 0.

    Raises:
        KeyError, IndexError, TypeError: not a chat completion.
    """
    choice = reply["choices"][0]
    tokens = (choice.get("logprobs") or {}).get("content") or [{}]
    top_logprobs = tokens[0].get("top_logprobs") or []

    if not top_logprobs:
        word = _plain(choice["message"]["content"] or "")
        if word.startswith("yes"):
            return WORD_LOG_ODDS
        return -WORD_LOG_ODDS if word.startswith("no") else 0.0

    # "Yes", " yes" and "YES." are tokens of one answer: their probabilities add up.
    logprobs = {"yes": -math.inf, "no": -math.inf}
    for item in top_logprobs:
        word = _plain(item["token"])
        if word in logprobs:
            logprobs[word] = _log_add_exp(logprobs[word], float(item["logprob"]))

    least = min(float(item["logprob"]) for item in top_logprobs)
    yes, no = (value if value > -math.inf else least for value in logprobs.values())

    return yes - no


def _plain(word: str) -> str:
    return word.strip().strip(".,!\"'").lower()


def _log_add_exp(first: float, second: float) -> float:
    """Return log(e^first + e^second)."""
    high, low = max(first, second), min(first, second)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))

"""A critic behind an OpenAI-compatible server, such as a local vLLM: scores, no gradients.

Each question is one request with all views as images. If the server returns log-probabilities of the first token, the
score is the log-odds of Yes against No; if not, the word in its answer counts as a fixed score. A look that brings no
answer is left out, and the run goes on.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vlm3d_gs.config import ServerConfig
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.images import encode_png
from vlm3d_gs.core.notices import notice
from vlm3d_gs.core.profiling import count
from vlm3d_gs.critic.chat import BadReplyError, Chat, LookFailedError
from vlm3d_gs.critic.questions.templates import Question

WORD_LOG_ODDS = 5.0
"""Log-odds of the word Yes from a server that returns no probabilities."""
TOP_TOKENS = 20
"""Log-probabilities requested; the most that the protocol allows."""
LONGEST_KEY = 4096
"""Characters of a key file; more is some other file."""


class ServerScorer:
    """Scores groups of named views by the answers of a server to the questions of a prompt."""

    def __init__(self, config: ServerConfig, questions: Sequence[Question]) -> None:
        """Read the key, if one is configured; nothing is sent yet.

        Raises:
            InputFileError: the key's file cannot be read, or does not hold a key.
        """
        self.config, self.questions = config, tuple(questions)
        self._chat = Chat(config, None if config.key_file is None else read_key(config.key_file))
        self._left_out = 0

    def answers(self, images: Tensor, names: Sequence[str]) -> dict[str, float]:
        """Return the log-odds of each question about one group of named views [V, H, W, 3].

        Raises:
            LookFailedError: the server cannot be reached or its answer is not a chat completion, at every attempt.
            ModelError: the server refuses.
        """
        views: list[dict[str, Any]] = []
        for name, image in zip(names, images, strict=True):
            url = "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
            views += [{"type": "text", "text": f"{name}: "}] if name else []
            views.append({"type": "image_url", "image_url": {"url": url}})

        bodies = [self._body(views, question.text) for question in self.questions]
        log_odds = self._chat.ask(bodies, reply_log_odds)
        return {question.name: z for question, z in zip(self.questions, log_odds, strict=True)}

    def scores(self, images: Tensor, names: Sequence[str]) -> list[float] | None:
        """Return the weighted mean log-odds over the questions, of each scene of [S, V, H, W, 3].

        None where the server gave no answer about one of them: scenes can only be compared if all have a score.

        Raises:
            ModelError: the server refuses.
        """
        count("critic looks left out", 0)
        try:
            answers = [self.answers(scene, names) for scene in images]
        except LookFailedError as error:
            self._leave_out(len(images), error)
            return None

        count("critic looks", len(images))
        total = sum(question.weight for question in self.questions)
        return [
            sum(question.weight * scene[question.name] for question in self.questions) / total
            for scene in answers
        ]

    def _leave_out(self, looks: int, error: LookFailedError) -> None:
        before, self._left_out = self._left_out, self._left_out + looks
        count("critic looks left out", looks)
        # At the first, and then each time that the number has doubled.
        if before.bit_length() < self._left_out.bit_length():
            notice(f"The run goes on without the critic's look ({self._left_out} so far). {error}")

    def _body(self, views: list[dict[str, Any]], text: str) -> dict[str, Any]:
        """Return the request of one question."""
        return {
            "model": self.config.model,
            "messages": [{"role": "user", "content": [*views, {"type": "text", "text": text}]}],
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": TOP_TOKENS,
        }


def read_key(path: str) -> str:
    """Return the key in a file, which no error shows.

    Raises:
        InputFileError: the file cannot be read, or holds something else than one word of visible ASCII characters.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(LONGEST_KEY + 1)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputFileError(f"critic.server.key_file {path} cannot be read ({error}).") from None

    key = data.decode("ascii", errors="replace").strip()
    visible = key.isascii() and key.isprintable() and " " not in key
    if not key or not visible or len(data) > LONGEST_KEY:
        raise InputFileError(
            f"critic.server.key_file {path} must hold the server's key and nothing else: one word of visible ASCII "
            f"characters, at most {LONGEST_KEY}."
        )
    return key


def reply_log_odds(reply: object) -> float:
    """Return log p(Yes) - log p(No) of a chat completion's first token.

    A word that is not among the returned tokens counts as the least likely of them. Without probabilities the word of
    the answer decides, and any word other than Yes and No scores 0.

    Args:
        reply: parsed JSON, of any shape.

    Raises:
        BadReplyError: not a chat completion, or not finite.
    """
    choice = _first(_entry(reply, "choices"), "choices")
    tokens = _entry(_entry(choice, "logprobs"), "content")
    top_logprobs = _entry(_first(tokens, "content"), "top_logprobs") if tokens else None

    if not top_logprobs:
        word = _plain(_text(_entry(_entry(choice, "message", needed=True), "content") or ""))
        if word.startswith("yes"):
            return WORD_LOG_ODDS
        return -WORD_LOG_ODDS if word.startswith("no") else 0.0
    if not isinstance(top_logprobs, list):
        raise BadReplyError("its top_logprobs is no list")

    # "Yes", " yes" and "YES." are tokens of one answer: their probabilities add up.
    logprobs = {"yes": -math.inf, "no": -math.inf}
    least = math.inf
    for item in top_logprobs:
        word, logprob = _plain(_text(_entry(item, "token"))), _number(_entry(item, "logprob"))
        least = min(least, logprob)
        if word in logprobs:
            logprobs[word] = _log_add_exp(logprobs[word], logprob)

    yes, no = (value if value > -math.inf else least for value in logprobs.values())
    return _number(yes - no)


def reply_text(reply: object) -> str:
    """Return the words of a chat completion.

    Args:
        reply: parsed JSON, of any shape.

    Raises:
        BadReplyError: not a chat completion, or without words.
    """
    choice = _first(_entry(reply, "choices"), "choices")
    text = _text(_entry(_entry(choice, "message", needed=True), "content"))
    if not text.strip():
        raise BadReplyError("its content is empty")
    return text


def _entry(data: object, name: str, *, needed: bool = False) -> object:
    """Return an entry of a JSON object, None where it is absent or the object itself is null."""
    if data is None and not needed:
        return None
    if not isinstance(data, dict):
        raise BadReplyError(f"what should hold its {name} is no object")
    return data.get(name)


def _first(data: object, name: str) -> object:
    if not isinstance(data, list) or not data:
        raise BadReplyError(f"its {name} is no list with an entry")
    return data[0]


def _text(data: object) -> str:
    if not isinstance(data, str):
        raise BadReplyError("its token or content is no text")
    return data


def _number(data: object) -> float:
    """Return a finite number; true and false are none."""
    if isinstance(data, bool) or not isinstance(data, int | float):
        raise BadReplyError("its logprob is no number")
    try:
        number = float(data)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadReplyError("its logprobs give a score that is not finite")
    return number


def _plain(word: str) -> str:
    return word.strip().strip(".,!\"'").lower()


def _log_add_exp(first: float, second: float) -> float:
    """Return log(e^first + e^second)."""
    high, low = max(first, second), min(first, second)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))

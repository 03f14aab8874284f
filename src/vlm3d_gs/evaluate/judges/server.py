"""A judge behind any OpenAI-compatible server: a local vLLM, a hosted model."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vlm3d_gs.config import ServerConfig
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.critic.chat import BadReplyError, Chat, LookFailedError
from vlm3d_gs.critic.server import TOP_TOKENS, read_key, reply_log_odds, reply_text
from vlm3d_gs.evaluate.judges import Answer, Look
from vlm3d_gs.evaluate.judges.replies import read_choices

MOST_TOKENS = 2048
"""Longest answer in words; GPTEval3D asks for an analysis before the numbers."""


class ServerJudge:
    """Asks a server; a busy one again, later.

    Args:
        config: address, model and limits.
    """

    writes = True

    def __init__(self, config: ServerConfig) -> None:
        """Read the key, if one is configured; nothing is sent yet.

        Raises:
            InputFileError: the key's file cannot be read, or does not hold a key.
        """
        self.config = config
        self._key = None if config.key_file is None else read_key(config.key_file)
        self._chat = Chat(config, self._key, setting="the judge's server")

    @property
    def name(self) -> str:
        """The model's name on the server."""
        return self.config.model or self.config.url

    @property
    def identity(self) -> str:
        """Address and model; limits of time do not change an answer."""
        return f"server {self.config.url} {self.config.model} temperature 0 tokens {MOST_TOKENS}"

    def ask(self, looks: Sequence[Look]) -> list[Answer]:
        """Return the answers; for a look without one, why.

        Raises:
            ModelError: the server refuses, and would again.
        """
        kinds: dict[int, list[int]] = {}
        for index, look in enumerate(looks):
            kinds.setdefault(look.choices, []).append(index)

        answers: dict[int, Answer] = {}
        for choices, places in kinds.items():
            begin = time.monotonic()
            bodies = [self._body(looks[index]) for index in places]
            found = self._chat.ask_each(bodies, _reader(choices))
            share_s = (time.monotonic() - begin) / len(places)
            for index, one in zip(places, found, strict=True):
                answers[index] = self._finished(one, share_s)
        return [answers[index] for index in range(len(looks))]

    def _finished(self, found: Answer | LookFailedError, seconds: float) -> Answer:
        if isinstance(found, LookFailedError):
            return Answer(seconds=seconds, failure=str(found))
        # What it says is kept in files and shown.
        text = found.text.replace(self._key, "[key]") if self._key else found.text
        return replace(found, text=text, seconds=seconds)

    def _body(self, look: Look) -> dict[str, Any]:
        """Return the request of one look."""
        content: list[dict[str, Any]] = []
        for index, picture in enumerate(look.pictures):
            if look.names and look.names[index]:
                content.append({"type": "text", "text": f"{look.names[index]}: "})
            url = "data:image/png;base64," + base64.b64encode(picture).decode()
            content.append({"type": "image_url", "image_url": {"url": url}})
        content.append({"type": "text", "text": look.text})

        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0.0,
            "max_tokens": MOST_TOKENS if look.choices else 1,
        }
        return body if look.choices else {**body, "logprobs": True, "top_logprobs": TOP_TOKENS}


def _reader(choices: int) -> Callable[[object], Answer]:
    """Return what reads a reply that should end in so many numbers, or in Yes or No."""

    def read(reply: object) -> Answer:
        spent = _usage(reply)
        if choices == 0:
            return Answer(log_odds=reply_log_odds(reply), tokens_in=spent[0], tokens_out=spent[1])
        text = reply_text(reply)
        try:
            numbers = read_choices(text, choices)
        except InputFileError as error:
            raise BadReplyError(str(error)) from None
        return Answer(choices=numbers, text=text, tokens_in=spent[0], tokens_out=spent[1])

    return read


def _usage(reply: object) -> tuple[int, int]:
    """Return the tokens that a server says it has read and written; 0 where it does not."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if math.isfinite(value) and 0 <= value < 2**53 else 0

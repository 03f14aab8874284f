"""An OpenAI-compatible server that writes text, such as the JSON of a scene, by a schema where the server knows how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm3d_gs.config import ServerConfig
from vlm3d_gs.core.errors import ModelError
from vlm3d_gs.critic.chat import Chat, LookFailedError
from vlm3d_gs.critic.server import read_key, reply_text

MOST_TOKENS = 2048
"""Longest answer."""


class ServerWriter:
    """Answers requests in words.

    Args:
        config: address and limits.
        schema: of the answer, as JSON Schema; asked for as constrained decoding until the server refuses that.
    """

    def __init__(self, config: ServerConfig, schema: Mapping[str, Any]) -> None:
        """Read the key, if one is configured; nothing is sent yet.

        Raises:
            InputFileError: the key's file cannot be read, or does not hold a key.
        """
        self._key = None if config.key_file is None else read_key(config.key_file)
        self._model, self._chat = config.model, Chat(config, self._key)
        self._schema: Mapping[str, Any] | None = schema

    def __call__(self, request: str) -> str:
        """Return the server's answer.

        Raises:
            LookFailedError: it gave none.
            ModelError: it refuses.
        """
        if self._schema is not None:
            try:
                return self._ask(request, self._schema)
            except LookFailedError:
                raise
            except ModelError:
                # Many servers refuse a response format that they do not know. If it was something else, they will
                # refuse again.
                self._schema = None
        return self._ask(request, None)

    def _ask(self, request: str, schema: Mapping[str, Any] | None) -> str:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": request}],
            "max_tokens": MOST_TOKENS,
            "temperature": 0.0,
        }
        if schema is not None:
            named = {"name": "scene", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}

        answer = self._chat.ask([body], reply_text)[0]
        # What it says may end up in a message.
        return answer.replace(self._key, "[key]") if self._key else answer

"""The tokenizer in a model's folder, with its chat template, without transformers, whose import takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from vlm3d_gs.core.errors import InputFileError


class FolderTokenizer:
    """Words to numbers and back, and conversations to text, as the tokenizers of transformers do it.

    Methods have the names and arguments that they have there.
    """

    def __init__(self, folder: Path) -> None:
        """Read tokenizer.json, tokenizer_config.json and, if there is one, chat_template.jinja.

        Raises:
            InputFileError: one of them cannot be read, or there is no template.
        """
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            raise InputFileError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error

        path = folder / "tokenizer_config.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            special = {
                name: str(word) for name, word in settings.items() if _names_token(name, word)
            }
        except (OSError, ValueError, AttributeError) as error:
            raise InputFileError(f"{path} cannot be read: {error}") from error

        self._template = _chat_template(folder, settings)
        self._special_tokens = special
        unknown = special.get("unk_token")
        self.unk_token_id = None if unknown is None else self._tokenizer.token_to_id(unknown)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text of ids."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self, conversation: list[dict[str, Any]], *, add_generation_prompt: bool, tokenize: bool
    ) -> str:
        """Return a conversation written as the model reads it; `tokenize` must be false.

        Args:
            conversation: turns with `role` and `content`; the content is a text, or a list of parts with a `type`.
            add_generation_prompt: end where the model begins to answer.
            tokenize: false.
        """
        assert not tokenize, "encode the text instead"
        return self._template.render(
            messages=conversation,
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
            **self._special_tokens,
        )


def _names_token(name: str, word: object) -> bool:
    """Return whether a setting names a special token, such as `eos_token`; templates may write these."""
    return name.endswith("_token") and isinstance(word, str)


def _chat_template(folder: Path, settings: dict[str, Any]) -> Template:
    """Return the template of a file of its own, or of the tokenizer's settings."""
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    if not isinstance(source, str):
        raise InputFileError(
            f"{folder} has no chat template: no chat_template.jinja, and no text in tokenizer_config.json. "
            "Fetch the model's files again."
        )

    # Settings of transformers, for which templates are written: blocks leave no empty lines behind.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise InputFileError(f"The chat template in {folder} cannot be read: {error}") from error


def _refuse(message: str) -> NoReturn:
    """Refuse a conversation; templates call this."""
    raise InputFileError(f"The critic's chat template cannot write this message: {message}")

"""The chat message that shows a critic several named views and asks one question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

IMAGE_TOKEN = "<|image_pad|>"
LAST_OF_PREFIX = "<|vision_end|>"


class ChatTokenizer(Protocol):
    """What is needed of a tokenizer; those of transformers have it, and `tokenizer.FolderTokenizer`."""

    @property
    def unk_token_id(self) -> int | None:
        """Id of what is not known."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> Any:
        """Return the text of ids."""

    def apply_chat_template(
        self, conversation: list[dict[str, Any]], *, add_generation_prompt: bool, tokenize: bool
    ) -> Any:
        """Return a conversation written as the model reads it, with `tokenize` false."""


def split_message(
    tokenizer: ChatTokenizer,
    view_names: Sequence[str],
    tokens: Sequence[int],
    questions: Sequence[str],
) -> tuple[list[int], list[list[int]]]:
    """Return the token ids of the views, and those of each question with the turn that ends it.

    One user message holds "NAME: image" for each view, the image alone where the name is empty, and then the
    question. Everything up to the last image is the
    same for all questions; prefix and question together are what the chat template makes of the whole message.

    Args:
        tokenizer: of a Qwen-VL model, with its chat template.
        view_names: name of each view.
        tokens: number of image tokens of each view.
        questions: one sentence each.
    """
    content: list[dict[str, str]] = []
    for name in view_names:
        content += [{"type": "text", "text": f"{name}: "}] if name else []
        content.append({"type": "image"})

    prefix_ids: list[int] = []
    question_ids = []
    for question in questions:
        message = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
        text = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)

        # Tokens never span the cut: the mark is a special token, which tokenizers keep whole.
        prefix, mark, rest = str(text).rpartition(LAST_OF_PREFIX)
        question_ids.append(tokenizer.encode(rest, add_special_tokens=False))

        if not prefix_ids:
            # The template writes one placeholder per image; the model reads one per image token.
            first, *others = (prefix + mark).split(IMAGE_TOKEN)
            expanded = first + "".join(
                IMAGE_TOKEN * count + text_after
                for count, text_after in zip(tokens, others, strict=True)
            )
            prefix_ids = tokenizer.encode(expanded, add_special_tokens=False)

    return prefix_ids, question_ids

"""The tokenizer of a folder gives the tokens that transformers gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from vlm3d_gs.config import QuestionConfig
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.prompts import parse_prompt
from vlm3d_gs.critic.questions.checklist import CHECK_REQUEST, prompt_questions
from vlm3d_gs.critic.questions.templates import VIEW_NAMES
from vlm3d_gs.critic.qwen.messages import split_message
from vlm3d_gs.critic.qwen.tokenizer import FolderTokenizer
from vlm3d_gs.models import embedded_weights

EMBEDDED = embedded_weights("critic")
PROMPTS = [
    "a red cube",
    "a blue cone behind a cyan cone",
    "a red cube on top of a blue sphere",
    "a yellow torus to the left of a red sphere",
]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("n_views", [1, 4])
def test_messages_have_the_same_tokens(prompt: str, n_views: int) -> None:
    asked = [q.text for q in prompt_questions(parse_prompt(prompt), QuestionConfig())]
    ours, theirs = FolderTokenizer(EMBEDDED), AutoTokenizer.from_pretrained(EMBEDDED)
    message = (VIEW_NAMES[:n_views], [64] * n_views, asked)
    assert split_message(ours, *message) == split_message(theirs, *message)
    assert len(asked) > 1


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "user", "content": "a red cube"}],
        [{"role": "user", "content": [{"type": "text", "text": CHECK_REQUEST}, {"type": "image"}]}],
        [{"role": "user", "content": "is it red?"}, {"role": "assistant", "content": "Yes"}],
    ],
)
@pytest.mark.parametrize("prompted", [True, False])
def test_conversations_are_written_the_same(turns: list[dict[str, object]], prompted: bool) -> None:
    ours, theirs = FolderTokenizer(EMBEDDED), AutoTokenizer.from_pretrained(EMBEDDED)
    text, expected = (
        one.apply_chat_template(turns, add_generation_prompt=prompted, tokenize=False)
        for one in (ours, theirs)
    )
    assert text == expected
    ids = ours.encode(text, add_special_tokens=False)
    assert ids == theirs.encode(text, add_special_tokens=False)
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(
            ids, skip_special_tokens=skip
        )
    assert ours.unk_token_id == theirs.unk_token_id


def test_a_template_may_stand_in_the_settings_and_uses_their_tokens(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "critic")
    folder = tmp_path / "critic"
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = (
        "{% for message in messages %}\n"
        "    {% if loop.index > 1 %}{% break %}{% endif %}\n"
        "{{ message['content'] }}{{ eos_token }}\n"
        "{% endfor %}\n"
        "{% if tools is none %}none{% endif %}\n"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    turns = [{"role": "user", "content": "a red cube"}] * 2
    ours, theirs = (
        one.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        for one in (FolderTokenizer(folder), AutoTokenizer.from_pretrained(folder))
    )
    assert ours == theirs
    assert "<|im_end|>" in ours
    assert "none" in ours


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "tokenizer.json cannot be read"),
        ("tokenizer_config.json", "[", "tokenizer_config.json cannot be read"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json cannot be read"),
        ("chat_template.jinja", "{% if %}", "chat template in .* cannot be read"),
        ("chat_template.jinja", None, "has no chat template"),
    ],
)
def test_broken_files_are_refused(
    name: str, content: str | None, message: str, tmp_path: Path
) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "critic")
    path = tmp_path / "critic" / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(InputFileError, match=message):
        FolderTokenizer(tmp_path / "critic")


def test_a_template_may_refuse_a_conversation(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "critic")
    (tmp_path / "critic" / "chat_template.jinja").write_text("{{ raise_exception('no pictures') }}")
    with pytest.raises(InputFileError, match="no pictures"):
        FolderTokenizer(tmp_path / "critic").apply_chat_template(
            [], add_generation_prompt=True, tokenize=False
        )

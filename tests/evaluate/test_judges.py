"""Judges: strict reading, memory, budget, and a server that is slow, broken, busy or vague."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image

from evaluate.judge_server import (
    JudgeServer,
    Trouble,
    broken_at_first,
    busy_at_first,
    slow_once,
    vague_at_first,
)
from scenes import splats_for
from vlm3d_gs.assembly.judges import build_judge, judge_model
from vlm3d_gs.config import CriticConfig, ServerConfig
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError, InputFileError, ModelError
from vlm3d_gs.core.images import encode_png
from vlm3d_gs.core.prompts import parse_prompt
from vlm3d_gs.critic.questions.checklist import held_out_questions
from vlm3d_gs.critic.questions.templates import VIEW_NAMES
from vlm3d_gs.evaluate.judges import Answer, Look
from vlm3d_gs.evaluate.judges.lineage import check_other_family, family
from vlm3d_gs.evaluate.judges.memory import OVER_BUDGET, Remembering
from vlm3d_gs.evaluate.judges.replies import read_choices
from vlm3d_gs.evaluate.judges.server import ServerJudge
from vlm3d_gs.evaluate.judges.vqascore import vqascore
from vlm3d_gs.render import render


def test_only_a_last_line_of_numbers_counts() -> None:
    assert read_choices("Analysis: 3 of 4.\n 1  2 3 \n\n", 3) == (1, 2, 3)
    for text in ("", "1 2", "1 2 3 1", "1 2 4", "1, 2, 3", "**1 2 3**", "1 2 3\nDone."):
        with pytest.raises(InputFileError, match="3 numbers"):
            read_choices(text, 3)


def side_by_side(left: float, right: float) -> bytes:
    half = torch.ones(8, 8, 3)
    return encode_png(torch.cat([left * half, right * half], 1))


def look(left: float, right: float, count: int = 2) -> Look:
    return Look(f"Compare. CRITERIA {count} please", (side_by_side(left, right),), choices=count)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    running = JudgeServer()
    yield running
    running.close()


def judge(server: JudgeServer, **settings: float) -> ServerJudge:
    limits = {"timeout_s": 5.0, "backoff_s": 0.01, "attempts": 5} | settings
    return ServerJudge(ServerConfig(url=server.url, model="m", **limits))  # type: ignore[arg-type]


def test_a_server_compares_and_tells_its_tokens(server: JudgeServer) -> None:
    answers = judge(server).ask([look(0.2, 0.8), look(0.8, 0.2, 1), look(0.5, 0.5)])
    assert [one.choices for one in answers] == [(1, 1), (2,), (3, 3)]
    assert [one.tokens_in for one in answers] == [100, 100, 100]
    assert all(one.text.startswith("Both") and one.log_odds is None for one in answers)


@pytest.mark.parametrize("trouble", [slow_once, broken_at_first, busy_at_first, vague_at_first])
def test_a_server_in_trouble_is_asked_again(server: JudgeServer, trouble: Trouble) -> None:
    server.trouble = trouble
    answers = judge(server, timeout_s=0.4).ask([look(0.2, 0.8)])
    assert answers[0].choices == (1, 1)
    assert len(server.requests) > 1


def test_one_question_without_an_answer_does_not_take_the_others_along(server: JudgeServer) -> None:
    server.say = lambda body: "4" if "hard" in body["messages"][0]["content"][-1]["text"] else "1"
    looks = [look(0.1, 0.2), Look("CRITERIA 1 hard", (side_by_side(0.1, 0.9),), choices=1)]
    answers = judge(server, attempts=2).ask(looks)
    assert answers[0].choices == (1, 1)
    assert "last line" in answers[1].failure
    assert len(server.requests) == 3


def test_a_refusal_ends_it_and_names_the_judge(server: JudgeServer) -> None:
    from evaluate.judge_server import reply

    def forbidden(_: int, handler: object) -> bool:
        reply(handler, 401, {"error": "who are you"})  # type: ignore[arg-type]
        return True

    server.trouble = forbidden
    with pytest.raises(ModelError, match="the judge's server"):
        judge(server).ask([look(0.1, 0.2)])


@dataclass
class Scripted:
    """Says 1 to everything and counts."""

    name: str = "scripted"
    identity: str = "scripted 1"
    writes: bool = True
    asked: list[Look] = field(default_factory=list)
    failing: bool = False

    def ask(self, looks: Sequence[Look]) -> list[Answer]:
        self.asked += looks
        failure = "no" if self.failing else ""
        return [Answer(choices=(1,), tokens_in=7, failure=failure) for _ in looks]


def test_nothing_is_asked_twice_across_programs(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    first = Remembering(Scripted(), path)
    first.ask([look(0.1, 0.2, 1), look(0.1, 0.2, 1), look(0.3, 0.2, 1)])
    assert len(first.judge.asked) == 2  # type: ignore[attr-defined]

    # A program that is killed may tear the last line.
    path.write_text(path.read_text() + '{"key": "abc", "choi')
    second = Remembering(Scripted(), path)
    answers = second.ask([look(0.1, 0.2, 1), look(0.9, 0.2, 1)])
    assert len(second.judge.asked) == 1  # type: ignore[attr-defined]
    assert [one.choices for one in answers] == [(1,), (1,)]
    assert (second.spent.asked, second.spent.remembered, second.spent.tokens_in) == (1, 1, 7)
    third = Remembering(Scripted(), path)
    third.ask([look(0.1, 0.2, 1), look(0.9, 0.2, 1), look(0.3, 0.2, 1)])
    assert third.judge.asked == []  # type: ignore[attr-defined]


def test_another_judge_picture_or_text_is_another_look(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Remembering(Scripted(), path).ask([look(0.1, 0.2, 1)])
    other = Remembering(Scripted(identity="scripted 2"), path)
    other.ask([look(0.1, 0.2, 1)])
    assert other.spent.asked == 1
    same = Remembering(Scripted(), path)
    same.ask([look(0.2, 0.1, 1), Look("CRITERIA 1", (side_by_side(0.1, 0.2),), choices=1)])
    assert same.spent.asked == 2


def test_the_budget_is_kept_and_failures_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    known = Remembering(Scripted(), path, budget=2)
    answers = known.ask([look(0.1 * index, 0.5, 1) for index in range(4)])
    assert [one.failure for one in answers] == ["", "", OVER_BUDGET, OVER_BUDGET]
    assert (known.spent.asked, known.spent.left_out) == (2, 2)

    failing = Remembering(Scripted(failing=True), path)
    assert failing.ask([look(0.9, 0.5, 1)])[0].failure == "no"
    assert Remembering(Scripted(), path).ask([look(0.9, 0.5, 1)])[0].failure == ""
    with pytest.raises(ConfigError, match="budget"):
        Remembering(Scripted(), path, budget=-1)


def test_a_critic_does_not_grade_its_own_work() -> None:
    assert family("qwen2.5-vl-7b") == family("Qwen/Qwen2.5-VL-3B-Instruct") == "qwen2.5-vl"
    assert family("Qwen/Qwen3-VL-4B") != family("qwen2.5-vl-7b")
    with pytest.raises(ConfigError, match="InternVL3"):
        check_other_family("Qwen/Qwen2.5-VL-72B", {"qwen2.5-vl-7b"})
    assert "favours" in (check_other_family("mini", {"mini"}, allowed=True) or "")
    assert check_other_family("google/gemma-3-4b-it", {"qwen2.5-vl-7b"}) is None


@pytest.mark.parametrize("spec", ["", "gpt", "server:m", "server:@http://x/v1", "model:"])
def test_an_unknown_judge_is_told_what_there_is(spec: str) -> None:
    with pytest.raises(ConfigError, match="OpenAI-compatible"):
        build_judge(spec)
    with pytest.raises(ConfigError, match="OpenAI-compatible"):
        judge_model(f"{spec.removesuffix('@http://x/v1').removesuffix(':m')}")


def test_the_embedded_judge_tells_a_scene_from_another() -> None:
    prompt = "a red cube on top of a blue sphere"
    cameras = orbit([0.0, 90.0, 180.0, 270.0], 15.0, 3.0, 40.0, 64, 64)
    scene = render(splats_for(prompt), cameras, background=(0.5, 0.5, 0.5)).color.detach()
    pictures = tuple(encode_png(one) for one in scene)
    texts = [held_out_questions(parse_prompt(text))[0].text for text in (prompt, "a green cone")]
    looks = [Look(text, pictures, tuple(VIEW_NAMES)) for text in texts]

    embedded = build_judge("mini")
    answers = embedded.ask([*looks, Look("CRITERIA 1", pictures, choices=1)])
    assert answers[2].failure
    assert answers[0].log_odds > 0.0 > answers[1].log_odds  # type: ignore[operator]
    direct = embedded.model.log_odds(  # type: ignore[attr-defined]
        (scene.clamp(0, 1) * 255).round() / 255, VIEW_NAMES, texts
    )
    assert [one.log_odds for one in answers[:2]] == pytest.approx(direct.tolist(), abs=1e-3)


@pytest.mark.filterwarnings("ignore")  # of a library, about its own defaults
def test_any_model_of_transformers_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluate.small_llava import save_llava
    from vlm3d_gs.evaluate.judges import transformers_vlm

    monkeypatch.setattr(transformers_vlm, "MOST_TOKENS", 4)
    save_llava(tmp_path)
    judge = build_judge(f"model:{tmp_path}", offline=True)
    picture, other = side_by_side(0.1, 0.9), side_by_side(0.9, 0.1)
    first, second, words = judge.ask(
        [Look("is it red", (picture,)), Look("is it red", (other,)), look(0.1, 0.9)]
    )
    assert first.probability != second.probability
    assert "last line" in words.failure

    # The first word after the message, by hand.
    inputs = judge._processor(  # type: ignore[attr-defined]
        images=Image.open(io.BytesIO(picture)), text="<image>is it red Answer:", return_tensors="pt"
    )
    chances = judge._network(**inputs).logits[0, -1].softmax(-1)  # type: ignore[attr-defined]
    encode = judge._processor.tokenizer.encode  # type: ignore[attr-defined]
    yes, no = (float(chances[encode(word)[0]]) for word in ("Yes", "No"))
    assert first.probability == pytest.approx(yes, rel=1e-4)
    assert first.log_odds == pytest.approx(math.log(yes / no), rel=1e-3)


def test_a_model_that_cannot_be_loaded_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"vlm3d-gs\[judges\]"):
        build_judge(f"model:{tmp_path}", offline=True)


def test_vqascore_is_the_probability_of_yes() -> None:
    class Sure(Scripted):
        def ask(self, looks: Sequence[Look]) -> list[Answer]:
            self.asked += looks
            return [
                Answer(log_odds=0.0, probability=0.3),
                Answer(log_odds=-2.0),
                Answer(failure="x"),
            ]

    sure = Sure()
    scores = vqascore(sure, "a hat", [b"1", b"2", b"3"])
    assert scores == [0.3, pytest.approx(1 / (1 + torch.tensor(2.0).exp().item())), None]
    assert sure.asked[0].text == 'Does this figure show "a hat"? Please answer yes or no.'


def test_answers_are_kept_as_plain_lines(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Remembering(Scripted(), path).ask([look(0.1, 0.2, 1)])
    row = json.loads(path.read_text().strip())
    assert row["judge"] == "scripted"
    assert row["choices"] == [1]
    assert CriticConfig().server.key_file is None

"""A critic behind a server, with a real HTTP server on this machine."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlm3d_gs.config import CriticConfig, ServerConfig
from vlm3d_gs.core.errors import ConfigError, InputFileError, ModelError
from vlm3d_gs.critic.questions.templates import Question
from vlm3d_gs.critic.server import WORD_LOG_ODDS, ServerScorer, reply_log_odds


def completion(**tops: float) -> dict[str, Any]:
    """A reply whose first token has these log-probabilities."""
    top_logprobs = [
        {"token": token.replace("_", " "), "logprob": value} for token, value in tops.items()
    ]
    return {
        "choices": [
            {"message": {"content": "x"}, "logprobs": {"content": [{"top_logprobs": top_logprobs}]}}
        ]
    }


class Server:
    """Keeps the requests; says Yes as surely as the first picture is bright."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.keys.append(self.headers.get("Authorization"))
                answer = json.dumps(outer.answer(body)).encode()
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        address = body["messages"][0]["content"][1]["image_url"]["url"]
        data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
        bright = float(np.asarray(Image.open(io.BytesIO(data))).mean()) / 255.0
        return completion(Yes=math.log(bright), No=math.log(1.0 - bright))


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


QUESTIONS = [Question("a", "Is it bright?", 3.0), Question("b", "Is it whole?", 1.0)]


def test_views_and_question_go_out_and_the_odds_come_back(server: Server, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    config = ServerConfig(url=server.url, model="qwen", key_file=str(tmp_path / "key"))
    scorer = ServerScorer(config, QUESTIONS)
    images = torch.full((2, 8, 8, 3), 0.8)
    answers = scorer.answers(images, ["Front view", "Back view"])
    assert answers["a"] == pytest.approx(math.log(4.0), abs=1e-2)
    two = torch.stack([images, images])
    assert scorer.scores(two, ["Front view", "Back view"]) == pytest.approx(2 * [answers["a"]])
    content = server.requests[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"] * 2 + ["text"]
    assert content[2]["text"] == "Back view: "
    assert server.requests[0]["model"] == "qwen"
    assert set(server.keys) == {"Bearer secret"}
    assert {body["messages"][0]["content"][-1]["text"] for body in server.requests} == {
        question.text for question in QUESTIONS
    }


def test_a_server_that_refuses_or_is_not_there_is_named(server: Server) -> None:
    server.status = 500
    scorer = ServerScorer(ServerConfig(url=server.url, backoff_s=0.0), QUESTIONS)
    with pytest.raises(ModelError, match="500"):
        scorer.answers(torch.full((1, 8, 8, 3), 0.5), ["Front view"])
    nowhere = ServerConfig(url="http://127.0.0.1:9/v1", timeout_s=2.0, backoff_s=0.0)
    with pytest.raises(ModelError, match=r"critic\.server\.url"):
        ServerScorer(nowhere, QUESTIONS).answers(torch.zeros(1, 8, 8, 3), ["Front view"])


def test_an_answer_that_is_no_completion_is_refused(server: Server) -> None:
    server.answer = lambda body: {"choices": []}  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="chat completions"):
        ServerScorer(ServerConfig(url=server.url, attempts=1), QUESTIONS).answers(
            torch.zeros(1, 8, 8, 3), ["Front view"]
        )


def test_ways_to_write_the_answer_are_pooled() -> None:
    reply = completion(Yes=math.log(0.3), _yes=math.log(0.3), No=math.log(0.2), Maybe=-9.0)
    assert reply_log_odds(reply) == pytest.approx(math.log(0.6 / 0.2))
    assert reply_log_odds(completion(Yes=-0.1, Maybe=-7.0)) == pytest.approx(-0.1 + 7.0)


@pytest.mark.parametrize(
    ("word", "odds"),
    [("Yes.", WORD_LOG_ODDS), (" no", -WORD_LOG_ODDS), ("Perhaps", 0.0)],
)
def test_without_probabilities_the_word_counts(word: str, odds: float) -> None:
    assert reply_log_odds({"choices": [{"message": {"content": word}}]}) == odds


def test_a_missing_key_a_wrong_address_and_gradients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="key_file"):
        ServerScorer(ServerConfig(key_file=str(tmp_path / "none")), QUESTIONS)
    with pytest.raises(ConfigError, match="http"):
        ServerConfig(url="localhost:8000")
    with pytest.raises(ConfigError, match="best-of-n"):
        CriticConfig(family="server")

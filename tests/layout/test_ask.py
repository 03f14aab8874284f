"""layout.ask, critic.writer: a model asked for the schema, told what was wrong, and asked at most three times."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from vlm3d_gs.config import ServerConfig
from vlm3d_gs.core.errors import ModelError
from vlm3d_gs.critic.writer import ServerWriter
from vlm3d_gs.layout.ask import ask_for_graph
from vlm3d_gs.layout.schema import model_schema
from vlm3d_gs.layout.solver import solve_layout

PROMPT = "four ripe apples in a basket"
GOOD: dict[str, Any] = {
    "objects": [
        {"name": "apple", "prompt": "a ripe apple", "count": 4},
        {"name": "basket", "prompt": "a wicker basket", "proportions": [1, 1, 0.6]},
    ],
    "relations": [{"subject": "apple", "relation": "inside", "object": "basket"}],
}
UNKNOWN: dict[str, Any] = {**GOOD, "relations": [{**GOOD["relations"][0], "relation": "in"}]}
IMPOSSIBLE: dict[str, Any] = {
    **GOOD,
    "relations": [
        {"subject": "apple", "relation": "to the left of", "object": "basket"},
        {"subject": "basket", "relation": "to the left of", "object": "apple"},
    ],
}


class Model:
    """Gives one answer after the other, and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), list[str]()

    def __call__(self, request: str) -> str:
        self.asked.append(request)
        return self.answers[len(self.asked) - 1]


def test_an_answer_among_words_is_taken() -> None:
    model = Model(f"Here it is:\n```json\n{json.dumps(GOOD)}\n```\nEnjoy!")
    graph = ask_for_graph(PROMPT, model, solve_layout)
    assert graph.prompt == PROMPT
    assert [item.count for item in graph.objects] == [4, 1]
    assert PROMPT in model.asked[0]
    assert json.dumps(model_schema()) in model.asked[0]


def test_a_wrong_answer_is_returned_with_what_was_wrong() -> None:
    model = Model("I cannot.", json.dumps(UNKNOWN), json.dumps(GOOD))
    assert ask_for_graph(PROMPT, model).find("basket").proportions == (1, 1, 0.6)
    assert "no JSON object" in model.asked[1]
    assert "must be one of on top of, under" in model.asked[2]
    assert '"relation": "in"' in model.asked[2]


def test_contradictions_count_as_wrong_and_three_answers_are_enough() -> None:
    model = Model(*[json.dumps(IMPOSSIBLE)] * 4)
    with pytest.raises(ModelError, match="in 3 answers.*cannot hold together.*to the left of"):
        ask_for_graph(PROMPT, model, solve_layout)
    assert len(model.asked) == 3


class Server:
    """A chat server that keeps what it is asked; it may refuse response formats."""

    def __init__(self, answers: list[str], knows_schemas: bool) -> None:
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                refused = "response_format" in body and not knows_schemas
                reply = {
                    "choices": [{"message": {"content": answers[0] if refused else answers.pop(0)}}]
                }
                self.send_response(400 if refused else 200)
                self.end_headers()
                self.wfile.write(json.dumps(reply).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.writer = ServerWriter(ServerConfig(url=url, model="m", backoff_s=0.0), model_schema())


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        server.http.shutdown()
        server.http.server_close()


def test_a_server_that_knows_schemas_is_asked_for_one(servers: list[Server]) -> None:
    servers.append(Server([json.dumps(UNKNOWN), json.dumps(GOOD)], knows_schemas=True))
    assert len(ask_for_graph(PROMPT, servers[0].writer, solve_layout).objects) == 2
    for body in servers[0].bodies:
        assert body["response_format"]["json_schema"]["schema"] == model_schema()
        assert body["model"] == "m"
    assert len(servers[0].bodies) == 2


def test_a_server_that_refuses_schemas_is_asked_without_from_then_on(servers: list[Server]) -> None:
    servers.append(Server([json.dumps(UNKNOWN), json.dumps(GOOD)], knows_schemas=False))
    assert len(ask_for_graph(PROMPT, servers[0].writer).objects) == 2
    assert ["response_format" in body for body in servers[0].bodies] == [True, False, False]

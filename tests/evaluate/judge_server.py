"""A real HTTP server that judges pictures by their brightness, and can be slow, broken, busy or vague."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

Trouble = Callable[[int, BaseHTTPRequestHandler], bool]
"""Takes the number of a request and its handler; True if it has dealt with it."""


def numbers(text: str, prompt: int) -> dict[str, Any]:
    return {
        "choices": [{"message": {"content": text}}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": len(text.split())},
    }


def picture(body: dict[str, Any]) -> np.ndarray:
    part = next(one for one in body["messages"][0]["content"] if one["type"] == "image_url")
    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)), dtype=float)


def prefers_dark(body: dict[str, Any]) -> str:
    """Says which half of the picture is darker; cannot tell when both are as dark."""
    pixels = picture(body)
    half = pixels.shape[1] // 2
    left, right = pixels[:, :half].mean(), pixels[:, half:].mean()
    return "3" if abs(left - right) < 0.5 else ("1" if left < right else "2")


class JudgeServer:
    """Answers with one number for each criterion that the question names as `CRITERIA n`."""

    def __init__(self, trouble: Trouble | None = None) -> None:
        self.requests: list[dict[str, Any]] = []
        self.say: Callable[[dict[str, Any]], str] = prefers_dark
        self.trouble = trouble
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    number = len(outer.requests)
                if outer.trouble is not None and outer.trouble(number, self):
                    return
                text = body["messages"][0]["content"][-1]["text"]
                if body["max_tokens"] == 1:
                    reply(self, 200, numbers("Yes" if picture(body).mean() < 128 else "No", 50))
                    return
                count = int(text.partition("CRITERIA ")[2].split()[0]) if "CRITERIA " in text else 1
                answer = f"Both were looked at.\n{' '.join([outer.say(body)] * count)}\n"
                reply(self, 200, numbers(answer, 100))

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def reply(
    handler: BaseHTTPRequestHandler, status: int, data: Any, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(json.dumps(data).encode())


def slow_once(number: int, handler: BaseHTTPRequestHandler) -> bool:
    if number == 1:
        time.sleep(0.6)
        reply(handler, 200, numbers("too late", 1))
    return number == 1


def broken_at_first(number: int, handler: BaseHTTPRequestHandler) -> bool:
    if number <= 2:
        reply(handler, 500, {"error": "broken"})
    return number <= 2


def busy_at_first(number: int, handler: BaseHTTPRequestHandler) -> bool:
    if number <= 3:
        reply(handler, 429, {"error": "too many"}, {"Retry-After": "0.05"})
    return number <= 3


def vague_at_first(number: int, handler: BaseHTTPRequestHandler) -> bool:
    if number <= 2:
        reply(handler, 200, numbers("The left one, I think.\n**1**", 5))
    return number <= 2

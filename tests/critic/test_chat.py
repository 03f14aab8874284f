"""A server that is busy, broken or hostile, over real sockets: what is tried again, refused, and never shown."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from critic.test_server import QUESTIONS, completion
from vlm3d_gs.config import ServerConfig, apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError, InputFileError, ModelError
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.core.profiling import counting
from vlm3d_gs.critic.chat import MOST_BYTES, BadReplyError, LookFailedError
from vlm3d_gs.critic.server import LONGEST_KEY, ServerScorer, read_key, reply_log_odds

KEY = "sk-very-secret-0123456789"
GOOD = json.dumps(completion(Yes=-0.5, No=-1.0)).encode()
VIEW = torch.full((1, 8, 8, 3), 0.5)
NAMES = ["Front view"]


class Badly:
    """A server that answers its n-th request by the n-th of some functions, and further ones by the last."""

    def __init__(self) -> None:
        self.replies: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.asked: list[dict[str, str | None]] = []
        self.times: list[float] = []
        self.sent = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                number = len(outer.asked)
                outer.asked.append(dict(self.headers))
                outer.times.append(time.monotonic())
                try:
                    outer.replies[min(number, len(outer.replies) - 1)](self)
                except OSError:  # the other side has had enough
                    pass
                self.close_connection = True

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def scorer(self, tmp_path: Path, **changes: Any) -> ServerScorer:
        (tmp_path / "key").write_text(KEY + "\n")
        values = {"timeout_s": 10.0, "backoff_s": 0.01, "key_file": str(tmp_path / "key")}
        return ServerScorer(ServerConfig(url=self.url, **(values | changes)), QUESTIONS[:1])


@pytest.fixture
def bad() -> Iterator[Badly]:
    server = Badly()
    yield server
    server.http.shutdown()
    server.http.server_close()


def says(body: bytes = GOOD, status: int = 200, **headers: str) -> Callable[..., None]:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def failure(scorer: ServerScorer, kind: type[Exception] = LookFailedError) -> str:
    """The message of a look that fails, which never shows the key or a control character."""
    with pytest.raises(kind) as error:
        scorer.answers(VIEW, NAMES)
    text = str(error.value)
    assert type(error.value) is kind
    assert KEY not in text
    assert text.isprintable(), repr(text)
    assert error.value.__cause__ is None
    return text


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_is_busy_for_a_moment_is_asked_again(
    bad: Badly, tmp_path: Path, status: int
) -> None:
    bad.replies = [says(b"later", status), says()]
    assert bad.scorer(tmp_path).scores(VIEW[None], NAMES) == [pytest.approx(0.5)]
    assert [row["Authorization"] for row in bad.asked] == [f"Bearer {KEY}"] * 2


def test_a_server_that_stays_busy_costs_the_look_and_not_the_run(
    bad: Badly, tmp_path: Path
) -> None:
    bad.replies = [says(b"overloaded", 503)]
    scorer, counts, told = bad.scorer(tmp_path, attempts=2), dict[str, int](), list[str]()
    with counting(counts), noticing(told.append):
        assert [scorer.scores(VIEW[None], NAMES) for _ in range(4)] == [None] * 4
        assert len(bad.asked) == 4 * 2
        bad.replies = [says()]
        assert scorer.scores(VIEW[None], NAMES) == [pytest.approx(0.5)]
    assert counts == {"critic looks left out": 4, "critic looks": 1}
    assert ["(1 so far)" in told[0], "(2 so far)" in told[1], "(4 so far)" in told[2]] == [True] * 3
    assert len(told) == 3
    assert "asked 2 times (status 503: overloaded)" in told[0]


def test_waits_double_and_retry_after_counts_if_longer(bad: Badly, tmp_path: Path) -> None:
    bad.replies = [says(b"", 503), says(b"", 429, Retry_After="0.7"), says(b"", 503), says()]
    bad.scorer(tmp_path, attempts=4, backoff_s=0.1).answers(VIEW, NAMES)
    waits = [later - one for one, later in zip(bad.times, bad.times[1:], strict=False)]
    for wait, least in zip(waits, (0.1, 0.7, 0.4), strict=True):
        assert least - 0.01 < wait < least + 5.0


@pytest.mark.parametrize("text", ["", "soon", "nan", "-5", "1e999", "Wed, 99 Foo 2026"])
def test_a_retry_after_that_says_nothing_is_no_wait(bad: Badly, tmp_path: Path, text: str) -> None:
    bad.replies = [says(b"", 503, Retry_After=text), says()]
    assert bad.scorer(tmp_path).answers(VIEW, NAMES)


def test_retry_after_may_be_a_date(bad: Badly, tmp_path: Path) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    bad.replies = [says(b"", 503, Retry_After=soon), says()]
    bad.scorer(tmp_path).answers(VIEW, NAMES)
    assert bad.times[1] - bad.times[0] > 0.5


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(bad: Badly, tmp_path: Path, status: int) -> None:
    other = Badly()
    other.replies = [says()]
    try:
        bad.replies = [says(b"", status, Location=f"{other.url}/chat/completions")]
        assert "redirects" in failure(bad.scorer(tmp_path), ModelError)
        assert (len(bad.asked), len(other.asked)) == (1, 0)
    finally:
        other.http.shutdown()
        other.http.server_close()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_a_refusal_ends_the_run_at_once_and_hides_the_key(
    bad: Badly, tmp_path: Path, status: int
) -> None:
    bad.replies = [says(f"You sent 'Bearer {KEY}'; \x1b[2J\x07no.".encode(), status)]
    text = failure(bad.scorer(tmp_path), ModelError)
    assert f"({status}): You sent 'Bearer [key]'; [2Jno." in text
    assert len(bad.asked) == 1
    with pytest.raises(ModelError):
        bad.scorer(tmp_path).scores(VIEW[None], NAMES)


def test_a_key_cut_by_control_characters_is_hidden_too(bad: Badly, tmp_path: Path) -> None:
    cut = KEY[:5] + "\x00\u202e" + KEY[5:]
    bad.replies = [says(cut.encode(), 401)]
    assert "[key]" in failure(bad.scorer(tmp_path), ModelError)


def test_a_giant_reply_is_not_read(bad: Badly, tmp_path: Path) -> None:
    def giant(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(3 * 2**30))
        handler.end_headers()
        while bad.sent < 3 * 2**30:
            bad.sent += handler.wfile.write(bytes(2**16))

    bad.replies = [giant]
    assert f"longer than {MOST_BYTES} bytes" in failure(bad.scorer(tmp_path, attempts=1))
    assert bad.sent < 64 * MOST_BYTES  # what fits into the sockets on the way


def test_a_giant_refusal_is_a_refusal(bad: Badly, tmp_path: Path) -> None:
    bad.replies = [says(b"x" * (4 * MOST_BYTES), 401)]
    assert len(failure(bad.scorer(tmp_path), ModelError)) < 600


def test_a_compressed_reply_is_not_unpacked(bad: Badly, tmp_path: Path) -> None:
    bad.replies = [says(b"\x1f\x8b bomb", Content_Encoding="gzip")]
    assert "compressed" in failure(bad.scorer(tmp_path, attempts=1))
    assert bad.asked[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_reply_in_drops_does_not_outlive_the_limit(bad: Badly, tmp_path: Path, part: str) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"\r\n" if part == "body" else b"X-Slow: "))
        for _ in range(600):
            handler.wfile.write(b"a")
            time.sleep(0.05)

    bad.replies = [drip]
    began = time.monotonic()
    assert "within 0.5 s" in failure(bad.scorer(tmp_path, attempts=1, timeout_s=0.5))
    assert time.monotonic() - began < 10.0


def test_a_silent_and_an_absent_server_are_left_after_the_limit(bad: Badly, tmp_path: Path) -> None:
    bad.replies = [lambda handler: time.sleep(5.0)]
    began = time.monotonic()
    failure(bad.scorer(tmp_path, attempts=2, timeout_s=0.5))
    assert time.monotonic() - began < 5.0
    bad.url = "http://127.0.0.1:9/v1"
    assert r"critic.server.url" in failure(bad.scorer(tmp_path))


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html>\x1b[31mhello</html>",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"choices": [',
        b"1" * 5000,
        GOOD.replace(b"-0.5", b"NaN"),
        GOOD.replace(b"-0.5", b"-Infinity"),
        GOOD.replace(b"-0.5", b"-1e999"),
        GOOD.replace(b"-0.5", b"-1" + b"0" * 400),
        GOOD.replace(b"-0.5", b"true"),
        GOOD.replace(b"-0.5", b'"-0.5"'),
        GOOD.replace(b"-0.5", b"null"),
        GOOD.replace(b"-0.5", b"1.5e308").replace(b"-1.0", b"-1.5e308"),
    ],
)
def test_garbage_and_scores_that_are_not_finite_are_refused(
    bad: Badly, tmp_path: Path, garbage: bytes
) -> None:
    bad.replies = [says(garbage), says(garbage), says()]
    assert bad.scorer(tmp_path).answers(VIEW, NAMES)
    bad.replies = [says(garbage)]
    assert "it said: " in failure(bad.scorer(tmp_path, attempts=1))


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 OK\r\n\r\n", b"\x00" * 500, b"SSH-2.0-x\r\n"])
def test_what_is_no_http_is_a_failed_attempt(bad: Badly, tmp_path: Path, reply: bytes) -> None:
    bad.replies = [lambda handler: handler.wfile.write(reply)]
    failure(bad.scorer(tmp_path, attempts=1))


def test_a_reply_that_breaks_off_is_a_failed_attempt(bad: Badly, tmp_path: Path) -> None:
    bad.replies = [says(GOOD[:20], Content_Length="999"), says(GOOD)]
    assert bad.scorer(tmp_path).answers(VIEW, NAMES)


NUMBERS = st.integers() | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=4) | st.sampled_from(["yes", "No"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "logprobs", "content", "top_logprobs", "token", "logprob", "message"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def nearly(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Shapes of a completion in which any part may be something else."""
    entry = st.fixed_dictionaries({"token": inner | st.just("Yes"), "logprob": inner | NUMBERS})
    content = st.fixed_dictionaries({"top_logprobs": inner | st.lists(inner | entry, max_size=3)})
    logprobs = st.fixed_dictionaries({"content": inner | st.lists(inner | content, max_size=2)})
    message = st.fixed_dictionaries({"content": inner})
    choice = st.fixed_dictionaries(
        {}, optional={"message": inner | message, "logprobs": inner | logprobs}
    )
    return st.fixed_dictionaries({"choices": inner | st.lists(inner | choice, max_size=2)})


@settings(max_examples=400, deadline=None)
@given(reply=JSON | nearly(JSON))
def test_any_json_gives_a_finite_score_or_is_refused(reply: object) -> None:
    try:
        score = reply_log_odds(reply)
    except BadReplyError as error:
        assert str(error)  # noqa: PT017
    else:
        assert isinstance(score, float)
        assert math.isfinite(score)


def test_it_works_where_a_loop_runs_already(bad: Badly, tmp_path: Path) -> None:
    import asyncio

    bad.replies = [says()]
    scorer = bad.scorer(tmp_path)

    async def in_a_notebook() -> dict[str, float]:
        return scorer.answers(VIEW, NAMES)

    assert asyncio.run(in_a_notebook())["a"] == pytest.approx(0.5)


def test_a_broken_proxy_setting_is_told_without_its_password(
    bad: Badly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "nonsense://user:hunter2@proxy")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    text = failure(bad.scorer(tmp_path), ModelError)
    assert "HTTP_PROXY" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@host/v1",
        "http://user:hun?ter2@host/v1",
        "user:hunter2@host",
        "https://host/v1?key=hunter2",
        "https://host/v1#hunter2",
    ],
)
def test_an_address_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    values = {"critic.family": "server", "critic.mode": "best-of-n", "critic.server.url": url}
    with pytest.raises(ConfigError, match="key_file") as error:
        apply_settings(preset("mini", "a red cube"), values, ())
    with pytest.raises(ConfigError) as typed:
        apply_settings(preset("mini", "a red cube"), {}, [f"critic.server.url={url}"])
    for text in (str(error.value), str(typed.value)):
        assert not any(part in text for part in ("hunter2", "hun?ter2", "ter2"))


@pytest.mark.parametrize(
    "url",
    ["http://", "http:///v1", "http://host:0/v1", "http://host:99999", "http://[::1", "x://h"],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"critic\.server\.url"):
        ServerConfig(url=url)
    with pytest.raises(ConfigError, match=r"critic\.server\.url"):
        ServerConfig(url=f"http://host/\x1b[2J{url}")
    assert ServerConfig(url="http://[::1]:8000/v1").url


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"two words",
        b"two\nlines",
        "schlüssel".encode(),
        b"\xff\xfe",
        b"a\x1bb",
        b"x" * 5000,
    ],
)
def test_a_file_that_holds_no_key_is_refused_without_showing_it(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputFileError, match=f"one word.*{LONGEST_KEY}") as error:
        read_key(str(path))
    assert not content.strip() or content.decode(errors="replace").strip() not in str(error.value)


def test_the_first_failure_ends_the_other_questions(bad: Badly, tmp_path: Path) -> None:
    def sleeps(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(5.0)

    bad.replies = [sleeps, says(b"no", 401)]
    scorer = bad.scorer(tmp_path)
    scorer.questions = tuple(QUESTIONS)
    began = time.monotonic()
    assert "401" in failure(scorer, ModelError)
    assert time.monotonic() - began < 4.0

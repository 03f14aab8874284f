"""Requests to an OpenAI-compatible server that may be slow, broken or hostile.

Every request has a limit on its time, its reply's size and its attempts. No redirect is followed, so that the key stays
with the server that it was given for; and what the server says is shown without the key and without control characters.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeVar

import httpx2

from vlm3d_gs.config import ServerConfig
from vlm3d_gs.core.errors import ModelError

MAX_CONCURRENT_REQUESTS = 8
"""Requests sent at the same time."""
MOST_BYTES = 2**20
"""Longest reply that is read; one token with its probabilities takes a few thousand bytes."""
MOST_WAIT_S = 60.0
"""Longest wait between two attempts, whatever the server asks for."""
SHOWN_CHARACTERS = 300
"""Of what a server says, in a message."""
BUSY = (408, 425, 429)
"""Refusals, beside 5xx, that a later attempt may overcome."""

Answer = TypeVar("Answer")
Reader = Callable[[object], Answer]
"""Takes parsed JSON, returns what the caller wants of it, and raises `BadReplyError` if it is not there."""


class LookFailedError(ModelError):
    """The server gave no answer about a scene this time; a run can go on without it."""


class BadReplyError(ValueError):
    """A reply is not what was asked for; the message says what is wrong, without the server's name."""


class _FailedAttempt(Exception):
    """One attempt failed, and another one may succeed."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Chat:
    """Sends chat completions to one server.

    Args:
        config: address and limits.
        key: sent as a bearer token; None sends none.
        setting: what the user set address and limits by, for messages.
    """

    def __init__(
        self, config: ServerConfig, key: str | None = None, setting: str = "critic.server"
    ) -> None:
        self.config, self._key, self._setting = config, key, setting
        self.address = f"{config.url.rstrip('/')}/chat/completions"

    def ask(self, bodies: Sequence[Mapping[str, Any]], read: Reader[Answer]) -> list[Answer]:
        """Return what `read` finds in the reply to each body; all are sent, some at the same time.

        Raises:
            LookFailedError: no attempt brought an answer to one of them.
            ModelError: the server refuses, and would again.
        """
        # A thread of its own, since in a notebook this one runs an event loop already.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self._ask_all(bodies, read)).result()

    def ask_each(
        self, bodies: Sequence[Mapping[str, Any]], read: Reader[Answer]
    ) -> list[Answer | LookFailedError]:
        """Return what `read` finds in each reply, or the error where no attempt brought one; the others go on.

        Raises:
            ModelError: the server refuses, and would again.
        """
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self._ask_all(bodies, read, spared=True)).result()

    async def _ask_all(
        self, bodies: Sequence[Mapping[str, Any]], read: Reader[Answer], *, spared: bool = False
    ) -> list[Any]:
        slots = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)

        async with self._client() as client:

            async def ask_one(body: Mapping[str, Any]) -> Answer | LookFailedError:
                try:
                    async with slots:
                        return await self._ask(client, json.dumps(body).encode(), read)
                except LookFailedError as error:
                    if not spared:
                        raise
                    return error

            tasks = [asyncio.create_task(ask_one(body)) for body in bodies]
            try:
                return await asyncio.gather(*tasks)
            finally:
                # After a failure the other answers are of no use; the client may close when all have ended.
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _client(self) -> httpx2.AsyncClient:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"

        # The limit on the whole attempt is `asyncio.timeout`; a byte now and then would satisfy these for ever.
        limits = httpx2.Timeout(self.config.timeout_s, connect=self.config.connect_timeout_s)
        try:
            return httpx2.AsyncClient(headers=headers, timeout=limits, follow_redirects=False)
        except (ValueError, OSError, httpx2.InvalidURL):
            # Its text may hold a proxy's password.
            raise ModelError(
                "The proxy or certificates that the environment names for HTTP cannot be used. Correct "
                "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY and SSL_CERT_FILE, or unset them."
            ) from None

    async def _ask(self, client: httpx2.AsyncClient, data: bytes, read: Reader[Answer]) -> Answer:
        """Try until an attempt succeeds or none is left, each time after a longer wait."""
        limit_s, attempts = self.config.timeout_s, self.config.attempts
        failed = _FailedAttempt("")

        for attempt in range(attempts):
            if attempt > 0:
                backoff_s = self.config.backoff_s * 2.0 ** (attempt - 1)
                await asyncio.sleep(min(max(backoff_s, failed.wait_s), MOST_WAIT_S))
            try:
                async with asyncio.timeout(limit_s):
                    return await self._attempt(client, data, read)
            except _FailedAttempt as error:
                failed = error
            except TimeoutError:
                failed = _FailedAttempt(f"no whole answer within {limit_s:g} s")
            except httpx2.TransportError as error:
                failed = _FailedAttempt(f"{type(error).__name__}: {self._shown(str(error))}")

        times = "once" if attempts == 1 else f"{attempts} times"
        raise LookFailedError(
            f"The server at {self.address} gave no answer, asked {times} ({failed}). Check {self._setting}.url and "
            f".model, and that it supports OpenAI's chat completions with images; {self._setting}.attempts and "
            ".timeout_s say how long it is waited for."
        )

    async def _attempt(
        self, client: httpx2.AsyncClient, data: bytes, read: Reader[Answer]
    ) -> Answer:
        try:
            async with client.stream("POST", self.address, content=data) as response:
                body = await _body(response)
        except httpx2.InvalidURL:
            raise ModelError(
                f"{self._setting}.url {self.config.url!r} is not an address. E.g. http://127.0.0.1:8000/v1."
            ) from None

        if response.is_success:
            try:
                return read(_parsed(body))
            except BadReplyError as error:
                said = self._shown(body.decode(errors="replace"))
                raise _FailedAttempt(f"{self._shown(str(error))}; it said: {said}") from None

        status, said = response.status_code, self._shown(body.decode(errors="replace"))
        if status in BUSY or status >= 500:
            raise _FailedAttempt(f"status {status}: {said}", _wait_s(response.headers))
        if 300 <= status < 400:
            target = self._shown(response.headers.get("Location", "nowhere"))
            raise ModelError(
                f"The server at {self.address} redirects ({status}) to {target}. Redirects are not followed, since "
                f"the key would go there too. Set {self._setting}.url to the server itself."
            )
        raise ModelError(
            f"The server at {self.address} refused ({status}): {said}. "
            f"Check {self._setting}.url, .model and .key_file."
        )

    def _shown(self, text: str) -> str:
        """Return the beginning of a server's text without the key and without what could steer a terminal."""
        plain = "".join(one if one.isprintable() else " " * one.isspace() for one in text)
        if self._key:
            plain = plain.replace(self._key, "[key]")
        return plain[:SHOWN_CHARACTERS].strip()


async def _body(response: httpx2.Response) -> bytes:
    """Read a reply; of a refusal, the beginning is enough."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _FailedAttempt("the reply is compressed, which was not asked for")

    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) <= MOST_BYTES:
            continue
        if response.is_success:
            raise _FailedAttempt(f"the reply is longer than {MOST_BYTES} bytes")
        break
    return bytes(body)


def _parsed(body: bytes) -> object:
    """Return JSON as data.

    Raises:
        BadReplyError: it is not JSON, or holds a number that is not finite, which JSON has not.
    """
    try:
        return json.loads(body, parse_constant=_refuse)
    except BadReplyError:
        raise
    except (ValueError, RecursionError):
        raise BadReplyError("the reply is not JSON") from None


def _refuse(constant: str) -> NoReturn:
    raise BadReplyError(f"the reply holds {constant}")


def _wait_s(headers: httpx2.Headers) -> float:
    """Return the seconds of Retry-After, a number or a date; 0 without one that can be read."""
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
            date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
            seconds = (date - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0

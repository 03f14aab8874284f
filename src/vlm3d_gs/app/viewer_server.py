"""Starts viser for the live view, and says who may connect: whoever has the page's address, from that page.

A browser lets any page that its user visits send requests to this machine. So the address holds a random token, and a
request without it, with the name of another machine, or from another page is refused before viser sees it.
"""

from __future__ import annotations

import http
import io
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import Any

import viser
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from vlm3d_gs.core.errors import ConfigError, MissingDependencyError

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")
HTTP_PORT = 80
"""The port that a browser leaves out of Host and Origin."""

Handler = Callable[[ServerConnection, Request], Response | None]
"""What websockets calls with a request: a response ends it, None goes on to open a websocket."""


@dataclass(frozen=True, slots=True)
class Door:
    """Who may connect to a page."""

    host: str
    """Address or name that the server was told to listen at."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """First part of every path."""

    def refusal(
        self, path: str, hosts: list[str], origins: list[str], bound: tuple[str, int]
    ) -> str | None:
        """Return why a request is refused; None if it is let in.

        Args:
            path: of the request.
            hosts: its Host headers. A page that points its own name at this machine shows itself here.
            origins: its Origin headers, which a browser sends with every websocket: the page that asks.
            bound: address and port of this end of the connection.
        """
        allowed = {_netloc(name, bound[1]) for name in (*LOOPBACK_NAMES, self.host, bound[0])}

        if len(hosts) != 1 or hosts[0].lower() not in allowed:
            return f"Open the page at the address that was printed, with port {bound[1]}."
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return "Other pages may not connect."

        sent = path.partition("?")[0].split("/")[1:2]
        # In constant time, so that the time of a refusal tells nothing of the token.
        if not sent or not secrets.compare_digest(_as_bytes(sent[0]), _as_bytes(self.token)):
            return (
                "The address lacks the token that was printed with it, or it is an earlier run's."
            )
        return None

    def guard(self, serve_page: Handler) -> Handler:
        """Return a handler that refuses strangers, and hands others to `serve_page` without the token in their path."""

        def handle(connection: ServerConnection, request: Request) -> Response | None:
            headers, bound = request.headers, connection.local_address
            hosts, origins = headers.get_all("Host"), headers.get_all("Origin")
            reason = self.refusal(request.path, hosts, origins, (bound[0], bound[1]))
            if reason is not None:
                return connection.respond(http.HTTPStatus.FORBIDDEN, reason + "\n")

            response = serve_page(connection, replace(request, path=self._inner(request.path)))
            if response is not None:
                response.headers["Referrer-Policy"] = "no-referrer"  # the address is a secret
            return response

        return handle

    def address(self, port: int) -> str:
        """Return the URL of the page."""
        return f"http://{_bracketed(self.host)}:{port}/{self.token}"

    def _inner(self, path: str) -> str:
        return path.removeprefix(f"/{self.token}") or "/"


def start_server(door: Door, port: int) -> Any:
    """Start viser at exactly this host and port, with a door.

    Args:
        door: who may connect, and the host.
        port: 0 takes a free one.

    Raises:
        ConfigError: the host is not an address of this machine, or the port is taken or not allowed.
        MissingDependencyError: this version of viser cannot be guarded.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port must be 1 to 65535, got {port}.")

    # viser silently takes another port than a taken one, so try the address first.
    host = door.host
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family[0], family[1]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(family[4])
    except OSError as error:
        raise ConfigError(
            f"Cannot listen at {host}, port {port or 'any'}: {error}. Give another --port (or none, "
            f"for a free one), or a --host that is an address of this machine."
        ) from error

    with muted(), _guarding(door) as guarded:
        server = viser.ViserServer(host=host, port=port, label="vlm3d-gs", verbose=False)

    if not guarded:
        stop_server(server)
        raise MissingDependencyError(
            f"viser {viser.__version__} starts its server in another way than we know, so the page could not be "
            "guarded and is not served. Install viser 1.1."
        )
    if port and server.get_port() != port:
        stop_server(server)
        raise ConfigError(f"Port {port} was taken just now. Give another --port, or none.")
    return server


def stop_server(server: Any) -> None:
    """Stop what `start_server` returned."""
    with muted():
        server.stop()


def muted() -> redirect_stdout[io.StringIO]:
    """Keep viser's own messages off the screen; it prints some even with `verbose=False`."""
    return redirect_stdout(io.StringIO())


@contextmanager
def _guarding(door: Door) -> Iterator[list[Handler]]:
    """Put a door before every server that websockets starts inside the block; yields the guarded handlers.

    viser 1.1 offers no hook for its requests, and a proxy before it would leave viser's own port open to every page.
    So for the moment of its start, the function of websockets that it calls is ours, which adds the door and nothing
    else. Whoever calls this must check that a handler was guarded.
    """
    module, serve = websockets.asyncio.server, websockets.asyncio.server.serve
    guarded: list[Handler] = []

    def serve_guarded(*arguments: Any, process_request: Handler, **options: Any) -> Any:
        guarded.append(door.guard(process_request))
        return serve(*arguments, process_request=guarded[-1], **options)

    module.serve = serve_guarded  # type: ignore[assignment, misc]
    try:
        yield guarded
    finally:
        module.serve = serve  # type: ignore[misc]


def _netloc(host: str, port: int) -> str:
    """Return a host and port as a browser writes them in Host and Origin."""
    name = _bracketed(host.lower())
    return name if port == HTTP_PORT else f"{name}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

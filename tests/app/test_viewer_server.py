"""viewer_server: who has the address gets in; strangers, other pages and borrowed names do not. With real sockets."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest
import viser
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from browser import chromium
from vlm3d_gs.app import viewer_server
from vlm3d_gs.app.viewer import LiveView
from vlm3d_gs.app.viewer_server import Door
from vlm3d_gs.core.errors import MissingDependencyError

PROTOCOL = f"viser-v{viser.__version__}"
WAIT_S = 20.0
SECRET = "a secret prompt"


@pytest.fixture(scope="module")
def view() -> Iterator[LiveView]:
    with LiveView(SECRET, steps=10) as made:
        yield made


def place(view: LiveView) -> tuple[int, str]:
    """Port and token."""
    parts = urlsplit(view.address)
    assert parts.port is not None
    return parts.port, parts.path.removeprefix("/")


def page(port: int, path: str, host: str = "127.0.0.1", **headers: str) -> tuple[int, bytes]:
    """Status and body of a request for the page."""
    with closing(http.client.HTTPConnection(host, port, timeout=WAIT_S)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def first_message(port: int, path: str, *, origin: str | None = None, host: str = "") -> bytes:
    """What the websocket says first; the TCP connection goes to this machine, whatever the Host."""
    with (
        socket.create_connection(("127.0.0.1", port), WAIT_S) as to_us,
        connect(
            f"ws://{host or f'127.0.0.1:{port}'}{path}",
            sock=to_us,
            origin=origin,
            subprotocols=[PROTOCOL],
            max_size=None,
            compression=None,
            proxy=None,
        ) as one,
    ):
        said = one.recv(timeout=WAIT_S)
        assert isinstance(said, bytes)
        return said


def refused(port: int, path: str, **asked: str) -> bool:
    with pytest.raises(InvalidStatus) as error:
        first_message(port, path, **asked)
    return error.value.response.status_code == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_the_address_that_is_printed_works(view: LiveView, name: str) -> None:
    port, token = place(view)
    assert len(token) >= 32
    for path in (f"/{token}", f"/{token}/", f"/{token}?darkMode"):
        status, body = page(port, path, Host=f"{name}:{port}")
        assert status == 200
        assert b"<html" in body[:2000].lower()
    assert first_message(port, f"/{token}", host=f"{name}:{port}")
    assert first_message(port, f"/{token}", origin=f"http://127.0.0.1:{port}")


def test_each_page_has_a_token_of_its_own(view: LiveView) -> None:
    port, _ = place(view)
    with LiveView(SECRET) as other:
        other_port, token = place(other)
        assert refused(port, f"/{token}")
        assert first_message(other_port, f"/{token}")


@pytest.mark.parametrize(
    "change",
    [
        lambda token: "",
        lambda token: "nonsense",
        lambda token: token[:-1],
        lambda token: token + "x",
        lambda token: token.swapcase(),
        lambda token: f"x/{token}",
        lambda token: f"?{token}",
        lambda token: "%" + token,
    ],
)
def test_no_token_and_a_wrong_token_are_refused(view: LiveView, change) -> None:
    port, token = place(view)
    path = f"/{change(token)}"
    status, body = page(port, path)
    assert status == 403
    assert b"token" in body
    assert token.encode() not in body
    assert refused(port, path)


def test_bytes_that_are_no_text_are_no_token(view: LiveView) -> None:
    port, _ = place(view)
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as raw:
        raw.sendall(b"GET /\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port)
        assert b" 403 " in raw.recv(4096).splitlines()[0]


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "https://127.0.0.1:{port}",
        "http://localhost:{port}",
        "http://127.0.0.1:{port}.evil.example",
    ],
)
def test_other_pages_are_refused_even_with_the_token(view: LiveView, origin: str) -> None:
    port, token = place(view)
    origin = origin.format(port=port)
    assert refused(port, f"/{token}", origin=origin)
    assert page(port, f"/{token}", Origin=origin)[0] == 403


@pytest.mark.parametrize(
    "host",
    ["evil.example:{port}", "evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}"],
)
def test_a_name_that_was_pointed_at_this_machine_is_refused(view: LiveView, host: str) -> None:
    port, token = place(view)
    host = host.format(port=port)
    assert refused(port, f"/{token}", host=host, origin=f"http://{host}")
    status, body = page(port, f"/{token}", Host=host)
    assert status == 403
    assert SECRET.encode() not in body


def test_two_hosts_or_none_are_refused(view: LiveView) -> None:
    port, token = place(view)
    for hosts in ("", f"Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as raw:
            raw.sendall(f"GET /{token} HTTP/1.1\r\n{hosts}\r\n".encode())
            assert b" 403 " in raw.recv(4096).splitlines()[0]


def test_a_page_for_other_machines_needs_the_token_too() -> None:
    with LiveView(SECRET, host="0.0.0.0") as view:
        port, token = place(view)
        assert first_message(port, f"/{token}")  # 127.0.0.1 is where this connection ends
        assert refused(port, "/")
        assert refused(port, f"/{token}", host=f"evil.example:{port}")
        assert page(port, "/")[0] == 403


def test_the_bound_address_counts_as_a_name() -> None:
    door = Door("0.0.0.0", "secret")
    bound = ("192.0.2.7", 8080)
    assert door.refusal("/secret", ["192.0.2.7:8080"], ["http://192.0.2.7:8080"], bound) is None
    assert door.refusal("/secret", ["192.0.2.8:8080"], [], bound) is not None
    assert Door("box.lan", "secret").refusal("/secret", ["Box.lan:8080"], [], bound) is None
    assert Door("::1", "secret").refusal("/secret", ["[::1]:9"], [], ("::1", 9)) is None
    assert door.refusal("/secret", ["localhost"], ["http://localhost"], ("127.0.0.1", 80)) is None
    assert "secret" not in repr(door)


def test_refusals_leave_no_line_on_the_screen(
    view: LiveView, capfd: pytest.CaptureFixture[str]
) -> None:
    port, _ = place(view)
    assert refused(port, "/")
    assert page(port, "/")[0] == 403
    assert capfd.readouterr() == ("", "")


def test_a_viser_that_cannot_be_guarded_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    class Other:
        def __init__(self, **_: object) -> None: ...

        def stop(self) -> None:
            stopped.append(self)

    monkeypatch.setattr(viser, "ViserServer", Other)
    with pytest.raises(MissingDependencyError, match=r"Install viser 1\.1"):
        viewer_server.start_server(Door("127.0.0.1"), 0)
    assert len(stopped) == 1


def test_websockets_is_left_as_it_was(view: LiveView) -> None:
    module = viewer_server.websockets.asyncio.server
    assert module.serve.__module__ == "websockets.asyncio.server"
    assert isinstance(module.serve, type)


def test_in_a_browser_another_page_cannot_connect_but_this_one_can(view: LiveView) -> None:
    port, token = place(view)
    script = """new Promise(done => {{
        const one = new WebSocket('{address}', ['{protocol}']);
        one.onmessage = () => done('heard');
        one.onerror = () => done('refused');
    }})"""
    with LiveView("another page") as other, chromium() as browser:
        address = f"ws://127.0.0.1:{port}/{token}"
        browser.open(other.address)
        assert browser.run(script.format(address=address, protocol=PROTOCOL)) == "refused"
        browser.open(view.address)
        assert browser.run(script.format(address=address, protocol=PROTOCOL)) == "heard"
        browser.wait_for(f"document.querySelector('textarea')?.value === '{SECRET}'")
        browser.send("Page.reload")  # by then viser has rewritten the address
        browser.wait_for(f"document.querySelector('textarea')?.value === '{SECRET}'")

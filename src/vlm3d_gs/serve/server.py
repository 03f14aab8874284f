"""uvicorn, with an end that open streams of events hear of."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from vlm3d_gs.core.errors import ConfigError


class StoppableServer(uvicorn.Server):  # type: ignore[misc]
    """Serves an application until a signal comes, or `stop` is called.

    uvicorn waits for open connections when it ends, and a stream of events stays open as long as its asset is made.

    Args:
        app: the application.
        host: address.
        port: 0 is any free one.
        on_stop: called in the server's loop as soon as it is to end.
        announce: called with its URL once it listens.
        closing_s: how long open connections may take.
    """

    def __init__(
        self,
        app: FastAPI,
        host: str,
        port: int,
        *,
        on_stop: Callable[[], None],
        announce: Callable[[str], None],
        closing_s: int,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host,
                port,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=closing_s,
            )
        )
        self._on_stop, self._announce = on_stop, announce

    def stop(self) -> None:
        """End the service from another thread."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: open streams end first."""
        super().handle_exit(sig, frame)
        self._on_stop()

    async def startup(self, sockets: list[object] | None = None) -> None:
        """Listen, and tell where."""
        await super().startup(sockets)
        for server in self.servers:
            for socket in server.sockets:
                host, port = socket.getsockname()[:2]
                self._announce(f"serving at http://{host}:{port}, its interface at /docs")

    async def shutdown(self, sockets: list[object] | None = None) -> None:
        """End open streams, then the server."""
        self._on_stop()
        await super().shutdown(sockets)

    def serve_until_stopped(self) -> None:
        """Serve in this thread.

        Raises:
            ConfigError: the address cannot be had.
        """
        try:
            self.run()
        except SystemExit as error:
            raise ConfigError(
                f"Cannot listen at {self.config.host}:{self.config.port}. Choose another --port or --host."
            ) from error

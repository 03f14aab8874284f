"""A service from its start to its end: the server in this thread, the driver of the workers in another."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vlm3d_gs.batch.driver import Job
from vlm3d_gs.batch.items import Shared
from vlm3d_gs.batch.local import LocalDriver, Place
from vlm3d_gs.core.errors import ConfigError, InputFileError, MissingDependencyError, Vlm3dGsError
from vlm3d_gs.runs.interrupt import stop_requests
from vlm3d_gs.serve.jobs import Jobs, open_jobs
from vlm3d_gs.serve.limits import RateLimit

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
CLOSING_S = 10
"""How long open connections may take once the service ends."""
SHORTEST_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """How a service runs."""

    out: Path
    """Its folder, which a later service goes on with."""
    host: str = "127.0.0.1"
    """Address."""
    port: int = 8000
    """0 is any free one."""
    token: str = ""
    """What clients must show; empty is a random one."""
    most_waiting: int = 1000
    """Prompts that may wait."""
    per_minute: float = 60.0
    """Prompts a client may ask for; 0 is any number."""
    most_steps: int = 1000
    """Of an asset."""


def read_token(path: Path | None) -> str:
    """Return the token in a file; empty without a file.

    Raises:
        InputFileError: the file cannot be read.
        ConfigError: it holds no token.
    """
    if path is None:
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"Cannot read the token in {path}: {error}.") from error
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"{path} must hold a token of at least {SHORTEST_TOKEN} ASCII letters. E.g.: openssl rand -hex 32"
        )
    return token


def serve(
    settings: Settings,
    job: Job,
    places: list[Place],
    announce: Callable[[str], None],
) -> int | None:
    """Serve until a signal comes; runs in progress are then saved, and the next service goes on with them.

    Args:
        settings: of the service.
        job: what workers are told.
        places: of the workers.
        announce: called with lines for whoever started it.

    Returns:
        Number of the signal.

    Raises:
        MissingDependencyError: the extra `serve` is not installed.
        ConfigError: another service is at work in the folder, or the port is taken.
        Vlm3dGsError: workers cannot be started, or all assets fail alike.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"A service needs {', '.join(missing)}: pip install 'vlm3d-gs[serve]'."
        )

    token = settings.token or secrets.token_urlsafe(32)
    with open_jobs(settings.out, settings.most_waiting) as jobs, stop_requests() as stop_requested:
        if jobs.waiting:
            announce(f"{jobs.waiting} prompts of an earlier service wait")
        if not settings.token:
            announce(f"token: {token}")
        trouble = _Server(settings, jobs, job.shared, token, announce).run(job, places)
        if trouble is not None:
            raise trouble
    return stop_requested.number


class _Server:
    """The server, and the thread of the driver beside it."""

    def __init__(
        self,
        settings: Settings,
        jobs: Jobs,
        shared: Shared,
        token: str,
        announce: Callable[[str], None],
    ) -> None:
        from vlm3d_gs.serve.server import StoppableServer
        from vlm3d_gs.serve.web import Service, build_app

        self._service = Service(
            jobs,
            shared,
            token,
            RateLimit(settings.per_minute),
            settings.most_steps,
            asyncio.Event(),
        )
        self._server = StoppableServer(
            build_app(self._service),
            settings.host,
            settings.port,
            on_stop=self._service.stopping.set,
            announce=announce,
            closing_s=CLOSING_S,
        )

    def run(self, job: Job, places: list[Place]) -> Vlm3dGsError | None:
        """Serve; return why it ended by itself, or None."""
        ending = threading.Event()
        troubles: list[Vlm3dGsError] = []

        def drive() -> None:
            jobs = self._service.jobs
            try:
                LocalDriver(places).serve(jobs.feed, job, jobs.tell, ending.is_set)
            except Vlm3dGsError as error:
                troubles.append(error)
                self._service.trouble = str(error)
                self._server.stop()

        with _beside(drive, ending):
            self._server.serve_until_stopped()
        return troubles[0] if troubles else None


@contextmanager
def _beside(work: Callable[[], None], ending: threading.Event) -> Iterator[None]:
    """Have work done in another thread; at the end of the block ask it to end, and wait for it."""
    thread = threading.Thread(target=work, name="driver")
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()

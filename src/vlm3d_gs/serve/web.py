"""The HTTP interface: POST a prompt, follow its events, fetch its files. OpenAPI page at /docs."""

from __future__ import annotations

import asyncio
import hmac
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from vlm3d_gs.batch.items import Shared
from vlm3d_gs.batch.prompts import collect
from vlm3d_gs.core.errors import ConfigError, WriteError
from vlm3d_gs.serve.jobs import Jobs
from vlm3d_gs.serve.limits import RateLimit
from vlm3d_gs.serve.metrics import as_text, metrics_of

MOST_BYTES = 65_536
"""Of a request."""
MOST_LETTERS = 2_000
"""Of a prompt."""
KEEP_ALIVE_S = 15.0
"""Proxies close connections on which nothing comes."""
QUEUED_EVENTS = 100
"""Of a client that reads slowly; older ones are dropped, the last never."""
RETRY_S = 30
ENDED = ("done", "failed", "stopped")

BEARER = HTTPBearer(auto_error=False)
"""Here and not where it is used, since FastAPI looks for the names of annotations in the module."""

Call = Callable[[Request], Awaitable[Response]]


class Wanted(BaseModel):
    """What a client asks for."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=MOST_LETTERS)]
    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    steps: Annotated[int | None, Field(ge=1)] = None
    formats: Annotated[str | None, Field(max_length=200, examples=["ply,mp4"])] = None


@dataclass
class Service:
    """What the interface needs."""

    jobs: Jobs
    """What was asked for."""
    shared: Shared
    """Settings of all assets."""
    token: str
    """What clients must show."""
    limit: RateLimit
    """How often they may ask for assets."""
    most_steps: int
    """Of an asset."""
    stopping: asyncio.Event
    """Set when the service is about to end."""
    trouble: str = ""
    """Why nothing can be made any more; empty as long as it can."""


def build_app(service: Service) -> FastAPI:
    """Return the interface of a service."""
    app = FastAPI(title="vlm3d-gs", summary="A sentence in, a 3D Gaussian splat out.")
    registry = metrics_of(service.jobs)

    def known(
        shown: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    ) -> None:
        given = shown.credentials if shown is not None else ""
        # Compared in constant time, so that answers do not tell how much of a guess was right.
        if not hmac.compare_digest(given.encode(), service.token.encode()):
            raise HTTPException(401, "Show the token: Authorization: Bearer TOKEN.")

    guarded = [Depends(known)]

    @app.middleware("http")
    async def limit_size(request: Request, call: Call) -> Response:
        length = request.headers.get("content-length", "0")
        chunked = "transfer-encoding" in request.headers
        if chunked or not length.isdecimal() or int(length) > MOST_BYTES:
            text = f"A request may have {MOST_BYTES} bytes, and must say how many it has."
            return JSONResponse({"detail": text}, 413)
        return await call(request)

    @app.post("/v1/assets", status_code=202, dependencies=guarded)
    async def ask(wanted: Wanted, request: Request) -> dict[str, Any]:
        """Ask for an asset. The same prompt and settings are the same asset, made once."""
        if service.trouble or service.stopping.is_set():
            raise HTTPException(503, service.trouble or "The service is about to end.")
        client = request.client.host if request.client is not None else ""
        if wait_s := service.limit.wait_s(client):
            raise _later(429, "Too many requests.", math.ceil(wait_s))
        return await asyncio.to_thread(_accept, service, wanted)

    @app.get("/v1/assets/{id}", dependencies=guarded)
    def describe(id: str) -> dict[str, Any]:
        """Say how an asset stands, and where its files are."""
        return _described(service, id)

    @app.get("/v1/assets/{id}/events", dependencies=guarded)
    async def events(id: str) -> StreamingResponse:
        """Follow an asset by server-sent events: `begin`, `step`, `end`."""
        _described(service, id)
        return StreamingResponse(_follow(service, id), media_type="text/event-stream")

    @app.get("/v1/assets/{id}/files/{name:path}", dependencies=guarded)
    def file(id: str, name: str) -> FileResponse:
        """Fetch a product."""
        found = service.jobs.describe(id)
        # Only names that the manifest has, so that no path leads anywhere else.
        if found is None or name not in found.get("files", {}):
            raise HTTPException(404, "There is no such file.")
        return FileResponse(service.jobs.out / found["folder"] / name)

    @app.get("/healthz")
    async def health() -> JSONResponse:
        """Say whether assets are made."""
        ill = service.trouble or ("stopping" if service.stopping.is_set() else "")
        content = {"status": ill or "ok", "waiting": service.jobs.waiting}
        return JSONResponse(content, 503 if ill else 200)

    @app.get("/metrics", dependencies=guarded)
    def metrics() -> Response:
        """Return numbers for Prometheus."""
        return Response(as_text(registry), media_type="text/plain; version=0.0.4")

    return app


def _accept(service: Service, wanted: Wanted) -> dict[str, Any]:
    """Take what a client asks for; raise the answer if it cannot be taken."""
    if wanted.steps is not None and wanted.steps > service.most_steps:
        raise HTTPException(422, f"steps must be at most {service.most_steps}.")
    row = {
        "prompt": wanted.prompt,
        "train.seed": wanted.seed,
        "train.steps": wanted.steps,
        "export.formats": wanted.formats,
    }
    try:
        (item,) = collect([(1, row)], service.shared, "the request").items
    except ConfigError as error:
        raise HTTPException(422, str(error)) from None
    try:
        status = service.jobs.accept(item)
    except ConfigError as error:
        raise _later(503, str(error), RETRY_S) from None
    except WriteError as error:
        raise HTTPException(507, str(error)) from None
    return _described(service, item.id) | {"status": status}


def _described(service: Service, id: str) -> dict[str, Any]:
    """Return what is known of an asset, with its addresses."""
    found = service.jobs.describe(id)
    if found is None:
        raise HTTPException(404, "There is no such asset.")
    url = f"/v1/assets/{id}"
    files = {name: f"{url}/files/{name}" for name in found.get("files", {})}
    return found | {"url": url, "events": f"{url}/events", "urls": files}


async def _follow(service: Service, id: str) -> AsyncIterator[str]:
    """Yield an asset's events until it has ended, or the service does."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(QUEUED_EVENTS)

    def put(event: dict[str, Any]) -> None:
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(event)

    def hear(event: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(put, event)

    with service.jobs.listening(id, hear):
        # What happened before comes first; whatever happens from here on is in the queue.
        now = service.jobs.describe(id)
        if now is None:
            return
        yield _event(now["status"] if now["status"] not in ENDED else "end", now)
        if now["status"] in ENDED:
            return

        stopping = asyncio.ensure_future(service.stopping.wait())
        try:
            while not stopping.done():
                getting = asyncio.ensure_future(queue.get())
                await asyncio.wait(
                    {getting, stopping}, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED
                )
                if not getting.done():
                    getting.cancel()
                    yield ": still here\n\n"
                    continue
                event = getting.result()
                yield _event(event["event"], event)
                if event["event"] == "end":
                    return
        finally:
            stopping.cancel()


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=True)}\n\n"


def _later(code: int, text: str, after_s: int) -> HTTPException:
    return HTTPException(code, text, {"Retry-After": str(after_s)})

"""A service over loopback, with workers that load no model: jobs, events, files, limits, its end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pytest

from contract.source_tree import SOURCE
from vlm3d_gs.batch.items import Shared
from vlm3d_gs.batch.prompts import collect
from vlm3d_gs.core.errors import ConfigError, MissingDependencyError
from vlm3d_gs.serve.jobs import open_jobs
from vlm3d_gs.serve.limits import RateLimit
from vlm3d_gs.serve.run import NEEDED, Settings, read_token, serve

needs_server = pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDED), reason="the extra `serve` is not installed"
)
TOKEN = "a-token-of-the-tests"


@contextmanager
def service(folder: Path, *arguments: str) -> Iterator[tuple[httpx2.Client, subprocess.Popen[str]]]:
    """A running service, and a client that shows its token."""
    (folder / "token").write_text(TOKEN)
    command = [sys.executable, "-m", "vlm3d_gs", "serve", "--out", str(folder / "out")]
    command += ["--port", "0", "--token-file", str(folder / "token"), "--workers", "1"]
    process = subprocess.Popen(
        [*command, *(arguments or ("--dry-run",))],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
    )
    assert process.stderr is not None
    try:
        url = None
        for line in process.stderr:
            found = re.search(r"http://[\d.]+:\d+", line)
            if found:
                url = found[0]
                break
        assert url is not None, "the service did not start"
        reader = threading.Thread(target=process.stderr.read, daemon=True)
        reader.start()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx2.Client(base_url=url, headers=headers, timeout=60.0) as client:
            yield client, process
    finally:
        process.kill()
        process.wait()
        with suppress(ValueError, OSError):
            process.stderr.close()


def follow(client: httpx2.Client, address: str) -> list[str]:
    with client.stream("GET", address) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [
            line.removeprefix("event: ") for line in answer.iter_lines() if line[:6] == "event:"
        ]


@needs_server
def test_a_prompt_becomes_files_and_the_same_prompt_the_same_asset(tmp_path: Path) -> None:
    with service(tmp_path, "--dry-run", "--rate", "0", "--queue", "5") as (client, _):
        asked = client.post("/v1/assets", json={"prompt": "a red cube", "seed": 3})
        assert asked.status_code == 202
        asset = asked.json()
        assert follow(client, asset["events"])[-1] == "end"

        done = client.get(asset["url"]).json()
        assert (done["status"], done["seed"]) == ("done", 3)
        text = client.get(done["urls"]["dry.txt"]).text
        assert text.startswith("a red cube\n")
        again = client.post("/v1/assets", json={"prompt": " a red  cube", "seed": 3}).json()
        assert (again["id"], again["status"]) == (asset["id"], "done")

        metrics = client.get("/metrics").text
        assert 'vlm3d_gs_assets_total{status="done"} 1.0' in metrics
        assert client.get("/healthz").json() == {"status": "ok", "waiting": 0}
        assert "/v1/assets" in client.get("/openapi.json").json()["paths"]

        # What is not allowed.
        url = asset["url"]
        bare = {"Authorization": "Bearer wrong"}
        for address in (url, f"{url}/events", f"{url}/files/dry.txt", "/metrics"):
            assert client.get(address, headers=bare).status_code == 401
        assert client.post("/v1/assets", json={}, headers=bare).status_code == 401
        for name in ("asset.json", "../../../accepted.jsonl", "%2e%2e/asset.json"):
            assert client.get(f"{url}/files/{name}").status_code == 404
        assert client.get("/v1/assets/none").status_code == 404
        for body in (
            {},
            {"prompt": ""},
            {"prompt": "x" * 2001},
            {"prompt": "a red cube", "prior.model": "/etc"},
            {"prompt": "a red cube", "steps": 1001},
            {"prompt": "a red cube", "formats": "exe"},
            {"prompt": "a red cube", "seed": -1},
        ):
            assert client.post("/v1/assets", json=body).status_code == 422, body
        large = client.post("/v1/assets", json={"prompt": "x" * 70_000})
        assert large.status_code == 413


@needs_server
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_accepted_prompt_is_lost_when_the_service_ends(
    tmp_path: Path, number: signal.Signals
) -> None:
    accepted = []
    with service(tmp_path, "--dry-run", "--rate", "0") as (client, process):
        for n in range(12):
            accepted.append(client.post("/v1/assets", json={"prompt": f"prompt {n}"}).json()["id"])
        process.send_signal(number)
        code = process.wait(60)
    assert code == (143 if number == signal.SIGTERM else -number)

    with service(tmp_path) as (client, _):
        for id in accepted:
            with suppress(httpx2.HTTPError):
                follow(client, f"/v1/assets/{id}/events")
            assert client.get(f"/v1/assets/{id}").json()["status"] == "done"
    journal = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    done = [row["id"] for row in map(json.loads, journal) if row["status"] == "done"]
    assert sorted(done) == sorted(accepted), "each once"


def test_a_full_queue_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    items = collect(((n, {"prompt": f"p {n}"}) for n in range(3)), Shared(), "list").items
    with open_jobs(tmp_path, 2) as jobs:
        assert [jobs.accept(item) for item in items[:2]] == ["waiting", "waiting"]
        assert jobs.accept(items[0]) == "waiting", "it waits already"
        with pytest.raises(ConfigError, match="2 prompts wait already"):
            jobs.accept(items[2])

    # A torn line was never answered for.
    with (tmp_path / "accepted.jsonl").open("a") as file:
        file.write('{"prompt": "p 2", "set')
    with open_jobs(tmp_path, 2) as jobs:
        assert jobs.waiting == 2
        assert jobs.describe(items[2].id) is None


def test_a_client_has_its_rate_and_gets_it_back() -> None:
    now = [0.0]
    limit = RateLimit(2, lambda: now[0])
    assert [limit.wait_s("a") for _ in range(3)] == [0.0, 0.0, 30.0]
    assert limit.wait_s("b") == 0.0, "others are not concerned"
    now[0] = 15.0
    assert limit.wait_s("a") == pytest.approx(15.0)
    now[0] = 30.0
    assert limit.wait_s("a") == 0.0
    assert limit.wait_s("a") > 0.0


def test_a_weak_token_and_a_missing_library_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("short")
    with pytest.raises(ConfigError, match="at least 16"):
        read_token(tmp_path / "token")
    monkeypatch.setattr("vlm3d_gs.serve.run.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"vlm3d-gs\[serve\]"):
        serve(Settings(tmp_path / "out"), None, [], print)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()

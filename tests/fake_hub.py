"""A model hub on this machine: the few HTTP answers that huggingface_hub requests, with small files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import torch
from safetensors.torch import save

WEIGHTS = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4, dtype=torch.float16)})
"""A small weight file with two tensors."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def pipeline_files() -> dict[str, bytes]:
    """Return the files of a published repository, including all that must not be fetched."""
    components = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    index = {name: ["library", "Class"] for name in components} | {"safety_checker": [None, None]}
    files = {"model_index.json": json.dumps(index).encode(), "README.md": b"read"}
    files |= {f"{name}/config.json": b"{}" for name in components[:3]}
    files |= {"tokenizer/vocab.json": b"{}", "tokenizer/merges.txt": b"", "v2.safetensors": b"x"}
    files |= {"scheduler/scheduler_config.json": b"{}", "unet/code.py": b"raise SystemExit"}
    for name in ("unet", "vae"):
        files[f"{name}/diffusion_pytorch_model.safetensors"] = WEIGHTS
        files[f"{name}/diffusion_pytorch_model.bin"] = b"pickle"
    files["unet/diffusion_pytorch_model.fp16.safetensors"] = WEIGHTS
    files["unet/diffusion_pytorch_model.non_ema.safetensors"] = WEIGHTS
    files["text_encoder/model.safetensors"] = WEIGHTS
    return files


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write a repository's files into a folder; return it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@dataclass
class Repository:
    """What the hub answers about one id."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    status: int = 200
    """401 as for a removed repository, 404, 500."""
    gated: bool = False
    """Anyone may list the files, nobody may download them."""
    announced: Mapping[str, int] = field(default_factory=dict)
    """Sizes to report instead of the true ones."""

    def size(self, name: str) -> int:
        return self.announced.get(name, len(self.files[name]))


@dataclass
class FakeHub:
    """A running hub."""

    endpoint: str
    repositories: dict[str, Repository]
    requests: list[str] = field(default_factory=list)
    """Method and path of every request, in order."""

    def was_requested(self, text: str) -> bool:
        return any(text in request for request in self.requests)


@contextmanager
def fake_hub(repositories: dict[str, Repository]) -> Iterator[FakeHub]:
    """Serve the repositories while the block runs; other ids answer 401, as removed ones do."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = FakeHub(f"http://127.0.0.1:{server.server_port}", repositories)
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Keep the tests' output free of one line a request."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub: FakeHub = self.server.hub  # type: ignore[attr-defined]
        path = urlsplit(self.path).path.strip("/")
        hub.requests.append(f"{self.command} {path}")
        is_api = path.startswith("api/models/")
        owner, name, *rest = path.removeprefix("api/models/").split("/")
        repository = hub.repositories.get(f"{owner}/{name}", Repository(status=401))
        if repository.status == 401:
            self._send(401, b"{}", {"X-Error-Message": "Invalid username or password."})
        elif repository.status == 404:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif repository.status != 200:
            self._send(repository.status, b"{}")
        elif is_api and rest[:1] == ["tree"]:
            self._send_json([_tree_row(repository, file) for file in repository.files])
        elif is_api:
            rows = [{"rfilename": file, "size": repository.size(file)} for file in repository.files]
            self._send_json({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": rows})
        elif repository.gated:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        else:
            self._send_file(repository.files.get("/".join(rest[2:])))

    def _send_file(self, content: bytes | None) -> None:
        if content is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            etag = f'"{sha1(content).hexdigest()}"'
            self._send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tree_row(repository: Repository, name: str) -> dict[str, object]:
    oid = sha1(repository.files[name]).hexdigest()
    return {"type": "file", "path": name, "size": repository.size(name), "oid": oid}

"""Judges from what the command line says of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from vlm3d_gs.assembly.critic import build_vlm
from vlm3d_gs.assembly.device import choose_device
from vlm3d_gs.config import CriticConfig, ServerConfig
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.precision import fast_dtype
from vlm3d_gs.evaluate.judges import Judge
from vlm3d_gs.evaluate.judges.server import ServerJudge
from vlm3d_gs.models import family_entry, locate

KINDS = """server:MODEL@URL (any OpenAI-compatible server), model:ID (a folder or hub id that transformers loads), or
mini (the embedded critic with held-out questions)""".replace("\n", " ")
"""What a judge may be."""


def build_judge(
    spec: str, *, key_file: str | None = None, device: str = "auto", offline: bool = False
) -> Judge:
    """Return the judge that a specification names; models are loaded here.

    Args:
        spec: one of `KINDS`.
        key_file: file with the server's key.
        device: where a model runs.
        offline: never contact the hub.

    Raises:
        ConfigError: it names none.
        ModelError: weights cannot be found.
    """
    kind, _, rest = spec.partition(":")
    if spec == "mini":
        return _embedded(device)
    if kind == "server":
        model, _, url = rest.rpartition("@")
        if not model or not url:
            raise ConfigError(_unknown(spec))
        return ServerJudge(ServerConfig(url=url, model=model, key_file=key_file))
    if kind == "model" and rest:
        # Its library takes seconds to load.
        from vlm3d_gs.evaluate.judges.transformers_vlm import TransformersJudge

        place = choose_device(device)
        return TransformersJudge(rest, place, fast_dtype(place) or torch.float32, offline=offline)
    raise ConfigError(_unknown(spec))


def judge_model(spec: str) -> str:
    """Return the model that a specification names, without loading it.

    Raises:
        ConfigError: it names none.
    """
    kind, _, rest = spec.partition(":")
    if spec == "mini":
        return spec
    model = rest.rpartition("@")[0] if kind == "server" else rest
    if kind not in ("server", "model") or not model:
        raise ConfigError(_unknown(spec))
    return model


def _embedded(device: str) -> Judge:
    from vlm3d_gs.evaluate.judges.embedded import NetworkJudge

    folder = locate(None, family_entry("critic", "mini").name, offline=True)
    model = build_vlm(CriticConfig(), folder, choose_device(device))
    return NetworkJudge(model, "mini (held-out questions)", f"mini {weights_hash(folder)}")


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 over all weights of a folder, by their names and contents."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        total.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _unknown(spec: str) -> str:
    return f"There is no judge {spec[:200]!r}. A judge is {KINDS}."

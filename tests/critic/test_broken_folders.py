"""A critic's folder that is broken is one line of ours, whichever code reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlm3d_gs.assembly.critic import build_vlm
from vlm3d_gs.config import CriticConfig
from vlm3d_gs.core.errors import Vlm3dGsError
from vlm3d_gs.models import embedded_weights

WHOLE = embedded_weights("critic")
SETTINGS = json.loads((WHOLE / "config.json").read_text())
WEIGHTS = (WHOLE / "model.safetensors").read_bytes()
BROKEN: dict[str, tuple[str, bytes | None]] = {
    "no config": ("config.json", None),
    "empty config": ("config.json", b""),
    "a list as config": ("config.json", b"[]"),
    "no text": ("config.json", b"\xff\xfe{"),
    "nested": ("config.json", b"[" * 100_000),
    "another network": ("config.json", json.dumps(SETTINGS | {"model_type": "bert"}).encode()),
    "a number as part": ("config.json", json.dumps(SETTINGS | {"text_config": 7}).encode()),
    "no weights": ("model.safetensors", None),
    "empty weights": ("model.safetensors", b""),
    "cut weights": ("model.safetensors", WEIGHTS[:100_000]),
    "other weights": ("model.safetensors", b"x" * 500),
    "no tokenizer": ("tokenizer.json", None),
    "empty tokenizer": ("tokenizer.json", b"{}"),
    "no pictures": ("preprocessor_config.json", b"[1]"),
    "patches of nothing": ("preprocessor_config.json", b'{"patch_size": 0, "merge_size": -3}'),
    "template": ("chat_template.jinja", b"{% for %}"),
}


@pytest.mark.parametrize("runtime", ["auto", "torch"])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_one_line(tmp_path: Path, case: str, runtime: str) -> None:
    name, content = BROKEN[case]
    for path in WHOLE.iterdir():
        if path.is_file() and path.name != name:
            (tmp_path / path.name).symlink_to(path)
    if content is not None:
        (tmp_path / name).write_bytes(content)

    critic = replace(CriticConfig(), runtime=runtime)
    with pytest.raises(Vlm3dGsError) as refused:
        build_vlm(critic, tmp_path, torch.device("cpu"))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600

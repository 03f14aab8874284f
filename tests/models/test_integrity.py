from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from fake_hub import WEIGHTS, pipeline_files, write
from vlm3d_gs.core.errors import ModelError
from vlm3d_gs.models.integrity import check_folder


def test_a_whole_folder_passes_and_its_pickles_are_counted(tmp_path: Path) -> None:
    found = check_folder(write(tmp_path / "mine", pipeline_files()))
    assert (found.n_files, found.n_tensors, len(found.ignored)) == (3, 6, 2)
    assert found.n_bytes == 3 * len(WEIGHTS)


@pytest.mark.parametrize("keep", [4, 8, 40, len(WEIGHTS) - 1])
def test_a_truncated_file_is_found(tmp_path: Path, keep: int) -> None:
    folder = write(tmp_path / "mine", pipeline_files())
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    unet.write_bytes(WEIGHTS[:keep])
    with pytest.raises(SafetensorError), safe_open(unet, framework="pt"):
        pass  # the library's verdict on the same file
    with pytest.raises(ModelError, match=r"damaged.*unet/diffusion_pytorch_model.safetensors: "):
        check_folder(folder)


def damaged(change: dict[str, object], extra: bytes = b"", name: str = "b") -> bytes:
    """Return the small file with a tensor's entry changed and bytes added at its end."""
    length = int.from_bytes(WEIGHTS[:8], "little")
    header = json.loads(WEIGHTS[8 : 8 + length])
    header[name] |= change
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + WEIGHTS[8 + length :] + extra


@pytest.mark.parametrize(
    "content",
    [
        damaged({"data_offsets": [24, 2**40]}),
        damaged({"data_offsets": [20, 28]}),
        damaged({"data_offsets": [8, 32]}, name="a"),
        damaged({"shape": [5]}),
        damaged({"dtype": "F32"}),
        damaged({}, extra=b"left over"),
        b"\x02" + 7 * b"\0" + b"[]",
        b"\x08" + 7 * b"\0" + b'{"a": 1}',
        b"not a safetensors file at all",
    ],
)
def test_a_damaged_header_is_found(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, {"config.json": b"{}", "model.safetensors": content})
    with pytest.raises(SafetensorError), safe_open(tmp_path / "model.safetensors", framework="pt"):
        pass  # what a loader would meet
    with pytest.raises(ModelError, match=r"damaged.* model.safetensors: Error while deserializing"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]
)
def test_whole_files_of_every_kind_pass(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.zeros(3, 5).to(dtype), "empty": torch.zeros(0)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    write(tmp_path, {"config.json": b"{}"})
    assert check_folder(tmp_path).n_tensors == 2


def test_the_index_of_shards_is_compared_with_them(tmp_path: Path) -> None:
    places = {"a": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}
    files = dict.fromkeys(places.values(), WEIGHTS) | {"config.json": b"{}"}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": places}).encode()
    folder = write(tmp_path / "critic", files)
    with pytest.raises(ModelError, match="model-00002-of-00002.safetensors: lacks 1 tensors"):
        check_folder(folder)
    write(folder, {"model-00002-of-00002.safetensors": save({"c": torch.zeros(1)})})
    assert check_folder(folder).n_tensors == 3


def test_an_incomplete_folder_and_an_unknown_one_fail_the_check(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", pipeline_files())
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ModelError, match="not complete. scheduler: absent"):
        check_folder(folder)
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelError, match="neither model_index.json"):
        check_folder(tmp_path / "other")

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlm3d_gs.core.errors import CheckpointError
from vlm3d_gs.runs import checkpoint
from vlm3d_gs.runs.checkpoint import load_checkpoint, save_checkpoint

META = {"config": {"prompt": "a red cube"}, "best": None, "rewards": [1.5, -2]}


def some_tensors() -> dict[str, torch.Tensor]:
    base = torch.randn(6, 4)
    return {
        "gaussians.means": torch.randn(5, 3, requires_grad=True),
        "gaussians.sh": torch.randn(5, 0, 3),
        "adam.means.step": torch.tensor(17.0),
        "view": base[:3],
        "transposed": base.t(),
        "half": torch.randn(3).bfloat16(),
        "stream.noise": torch.Generator().manual_seed(3).get_state(),
    }


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = some_tensors()
    save_checkpoint(tmp_path / "c.safetensors", step=42, tensors=tensors, meta=META)
    loaded = load_checkpoint(tmp_path / "c.safetensors")
    assert loaded.step == 42
    assert loaded.meta == META
    assert set(loaded.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert loaded.tensors[name].shape == tensor.shape
        assert torch.equal(loaded.tensors[name], tensor.detach())


def test_adam_goes_on_exactly_as_if_never_stopped(tmp_path: Path) -> None:
    def step(parameter: torch.Tensor, adam: torch.optim.Adam, times: int) -> None:
        for _ in range(times):
            adam.zero_grad()
            (parameter.sin() * torch.arange(5.0)).sum().backward()
            adam.step()

    whole = torch.zeros(5, requires_grad=True)
    step(whole, torch.optim.Adam([whole], lr=0.1), 10)

    first = torch.zeros(5, requires_grad=True)
    adam = torch.optim.Adam([first], lr=0.1)
    step(first, adam, 6)
    state = {f"adam.{key}": value for key, value in adam.state[first].items()}
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, step=6, tensors={"p": first, **state}, meta={})
    loaded = load_checkpoint(path).tensors
    second = loaded["p"].requires_grad_()
    resumed = torch.optim.Adam([second], lr=0.1)
    resumed.state[second] = {
        key: loaded[f"adam.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
    }
    step(second, resumed, 4)
    assert torch.equal(second, whole)


def test_a_failed_write_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, step=1, tensors={"a": torch.ones(3)}, meta={})

    def fail(tensors: object, file: Path, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, step=2, tensors={"a": torch.zeros(3)}, meta={})
    assert load_checkpoint(path).step == 1
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_missing_file_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_said_plainly(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, step=1, tensors=some_tensors(), meta=META)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_checkpoint(path)


def test_another_format_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 99)
    save_checkpoint(path, step=1, tensors={"a": torch.ones(1)}, meta={})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 99, but this version reads 2"):
        load_checkpoint(path)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of vlm3d-gs"):
        load_checkpoint(tmp_path / "weights.safetensors")

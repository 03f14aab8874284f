"""MVDream's published layout in a plain UNet, against the reference implementation's output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import load_file, save_file

from pipelines import tiny_mvdream
from vlm3d_gs.core.cameras import mvdream_camera_matrices, orbit
from vlm3d_gs.core.errors import ConfigError, InputFileError, ShapeError
from vlm3d_gs.prior.denoiser import TextEmbedding, run_network
from vlm3d_gs.prior.loading.mvdream_keys import (
    diffusers_name,
    mvdream_key_map,
    mvdream_modules,
    mvdream_unet_config,
)
from vlm3d_gs.prior.loading.pipeline import load_denoiser
from vlm3d_gs.prior.multiview import join_views
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"
PUBLISHED = {
    "attention_resolutions": [4, 2, 1],
    "camera_dim": 16,
    "channel_mult": [1, 2, 4, 4],
    "context_dim": 1024,
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 320,
    "num_head_channels": 64,
    "num_res_blocks": 2,
    "out_channels": 4,
    "transformer_depth": 1,
}
"""The settings of ashawkey/mvdream-sd2.1-diffusers."""

FIRST_LEVEL = {
    "input_blocks.1.0": "down_blocks.0.resnets.0",
    "input_blocks.2.0": "down_blocks.0.resnets.1",
    "output_blocks.9.0": "up_blocks.3.resnets.0",
    "output_blocks.10.0": "up_blocks.3.resnets.1",
    "output_blocks.11.0": "up_blocks.3.resnets.2",
}
SILENT = {
    f"{outer}.{old}": f"{inner}.{new}"
    for outer, inner in FIRST_LEVEL.items()
    for old, new in (
        ("in_layers.2.bias", "conv1.bias"),
        ("emb_layers.1.weight", "time_emb_proj.weight"),
        ("emb_layers.1.bias", "time_emb_proj.bias"),
    )
} | {
    "output_blocks.11.0.out_layers.3.bias": "up_blocks.3.resnets.2.conv2.bias",
    "output_blocks.11.0.skip_connection.bias": "up_blocks.3.resnets.2.conv_shortcut.bias",
    "output_blocks.11.1.proj_out.bias": "up_blocks.3.attentions.2.proj_out.bias",
    "output_blocks.11.1.transformer_blocks.0.ff.net.2.bias": (
        "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2.bias"
    ),
}
"""Tensors that do not move the fixture's output: each is in a layer before a norm over single channels."""


@pytest.fixture(scope="module")
def source(shared_fixtures: Path) -> Path:
    path = shared_fixtures / "mvdream_tiny"
    if not path.is_dir():
        pytest.skip("../shared/fixtures/mvdream_tiny is absent here")
    return path


@pytest.fixture(scope="module")
def bundle(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mvdream(tmp_path_factory.mktemp("mvdream") / "bundle", source / "unet")


@pytest.fixture(scope="module")
def denoiser(bundle: Path) -> TorchDenoiser:
    return load_denoiser(bundle, CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def reference(source: Path) -> dict[str, torch.Tensor]:
    return load_file(source / "reference.safetensors")


@torch.inference_mode()
def run(
    denoiser: TorchDenoiser, data: dict[str, torch.Tensor], rows: slice | list[int] = slice(None)
) -> torch.Tensor:
    text = TextEmbedding(data["context"][rows])
    return run_network(
        denoiser, data["latents"][rows], data["timesteps"][rows], text, data["camera"][rows]
    )


def test_the_output_is_that_of_the_reference(
    denoiser: TorchDenoiser, reference: dict[str, torch.Tensor]
) -> None:
    join_views(denoiser.network, 4)
    assert (run(denoiser, reference) - reference["output"]).abs().max() < 1e-4


def test_without_joint_attention_the_output_is_far_off(
    denoiser: TorchDenoiser, reference: dict[str, torch.Tensor]
) -> None:
    denoiser.network.set_attn_processor(AttnProcessor2_0())
    stock = run(denoiser, reference)
    assert (stock - reference["output"]).abs().max() > 0.3
    join_views(denoiser.network, 1)
    assert (run(denoiser, reference) - stock).abs().max() < 1e-4


def test_views_of_different_objects_must_not_be_mixed(
    denoiser: TorchDenoiser, reference: dict[str, torch.Tensor]
) -> None:
    mixed = [0, 4, 1, 5, 2, 6, 3, 7]
    join_views(denoiser.network, 4)
    assert (run(denoiser, reference, mixed) - reference["output"][mixed]).abs().max() > 0.3


def test_a_batch_that_the_group_size_does_not_divide_is_refused(
    denoiser: TorchDenoiser, reference: dict[str, torch.Tensor]
) -> None:
    join_views(denoiser.network, 4)
    with pytest.raises(ShapeError, match="batch of 6 .* groups of 4"):
        run(denoiser, reference, slice(0, 6))


def test_our_cameras_are_the_ones_that_the_network_was_trained_with(
    reference: dict[str, torch.Tensor],
) -> None:
    """The reference counts azimuth from -y, so its 90 degrees are our 0: the front, on +x."""
    theirs = torch.tensor([0.0, 90.0, 180.0, 270.0, 40.0, 130.0, 220.0, 310.0])
    elevations = torch.tensor([15.0] * 4 + [30.0] * 4)
    cameras = orbit(theirs - 90.0, elevations, 2.7, 40.0, 64, 64)
    rows = mvdream_camera_matrices(cameras).flatten(1)
    torch.testing.assert_close(rows, reference["camera"], atol=1e-5, rtol=0.0)


def test_every_tensor_lands_where_diffusers_would_put_it(
    denoiser: TorchDenoiser, source: Path
) -> None:
    stored = load_file(source / "unet" / WEIGHTS)
    names = {
        name: "model.diffusion_model." + name.replace("camera_embed.", "label_emb.0.")
        for name in stored
    }
    renamed = {names[name]: value for name, value in stored.items()}
    witness = convert_ldm_unet_checkpoint(renamed, dict(denoiser.network.config))
    state = denoiser.network.state_dict()
    assert len(stored) == len(state) == len(witness) == 688
    for name, value in witness.items():
        assert torch.equal(state[name], value.float()), name


def test_the_tensors_that_do_not_influence_the_output_land_too(
    denoiser: TorchDenoiser, source: Path
) -> None:
    stored, state = load_file(source / "unet" / WEIGHTS), denoiser.network.state_dict()
    assert len(SILENT) == 19
    for name, new in SILENT.items():
        assert torch.equal(state[new], stored[name].float()), name


def test_the_published_network_has_the_published_size() -> None:
    config = mvdream_unet_config(PUBLISHED)
    plain = {key: value for key, value in config.items() if "class_embed" not in key}
    with torch.device("meta"):
        multiview, single = UNet2DConditionModel(**config), UNet2DConditionModel(**plain)
    sizes = [sum(part.numel() for part in net.parameters()) for net in (multiview, single)]
    assert sizes == [867_572_164, 865_910_724]
    state = multiview.state_dict()
    assert len(state) == 690
    back = {new: old for old, new in mvdream_modules(PUBLISHED).items()}
    published = [diffusers_name(name, back) for name in state]
    assert None not in published
    assert mvdream_key_map(published, state, PUBLISHED) == dict(zip(published, state, strict=True))
    assert config["attention_head_dim"] == [5, 10, 20, 20]


def remove(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["out.2.bias"]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["image_embed.0.weight"] = torch.zeros(1)


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["out.2.bias"] = torch.zeros(5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (remove, "1 tensors are missing, such as conv_out.bias"),
        (add, "1 tensors are not expected, such as image_embed.0.weight"),
        (reshape, "cannot be read"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[dict[str, torch.Tensor]], None], text: str, bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    tensors = load_file(folder / "unet" / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / "unet" / WEIGHTS)
    with pytest.raises(InputFileError, match=text):
        load_denoiser(folder, CPU)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"channel_mult": None}, "lacks channel_mult"), ({"ip_dim": 16}, "ip_dim=16.*ImageDream")],
)
def test_settings_of_another_network_are_refused(
    change: dict[str, int | None], text: str, bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(ConfigError, match=text):
        load_denoiser(folder, CPU)

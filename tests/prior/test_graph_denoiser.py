"""The embedded prior by its exported graphs, beside diffusers' own networks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

import pipelines
from vlm3d_gs.assembly.runtime import uses_graphs
from vlm3d_gs.config import CameraConfig, Config, PriorConfig
from vlm3d_gs.config.schedules import linear
from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.prior.denoiser import Denoiser, TextEmbedding, pull_back, run_branches
from vlm3d_gs.prior.export import export_prior
from vlm3d_gs.prior.graph_denoiser import GraphDenoiser, embed_texts_by_graph
from vlm3d_gs.prior.loading.pipeline import load_denoiser
from vlm3d_gs.prior.loading.text import embed_texts
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser
from vlm3d_gs.runtime.manifest import FOLDER, read_manifest

CPU = torch.device("cpu")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def by_torch() -> TorchDenoiser:
    return load_denoiser(embedded_weights("prior"), CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def by_graph() -> GraphDenoiser:
    return GraphDenoiser(read_manifest(embedded_weights("prior")), n_views=4)


def evaluate(denoiser: Denoiser, count: int) -> torch.Tensor:
    """Run two branches on random inputs, the same for every denoiser."""
    random = torch.Generator().manual_seed(count)
    noisy = torch.randn(count, 12, 16, 16, generator=random)
    timesteps = torch.randint(1000, (count,), generator=random)
    cameras = torch.randn(count, 16, generator=random)
    texts = [TextEmbedding(torch.randn(count, 16, 192, generator=random)) for _ in range(2)]
    return run_branches(denoiser, noisy, timesteps, texts, cameras)


@pytest.mark.parametrize(("n_views", "count"), [(4, 4), (4, 12), (4, 36), (1, 1), (1, 6)])
def test_the_network_is_the_same(
    n_views: int, count: int, by_torch: TorchDenoiser, by_graph: GraphDenoiser
) -> None:
    # 36 images in two branches are more than the 63 that were free in the trace.
    for denoiser in (by_torch, by_graph):
        denoiser.join_views(n_views)
    expected = evaluate(by_torch, count)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(evaluate(by_graph, count), expected, **CLOSE)


def test_joined_views_are_not_the_same_as_single_ones(by_graph: GraphDenoiser) -> None:
    by_graph.join_views(4)
    joined = evaluate(by_graph, 4)
    by_graph.join_views(1)
    assert (evaluate(by_graph, 4) - joined).abs().max() > 0.01


def test_encoder_and_decoder_are_the_same_with_their_gradients(
    by_torch: TorchDenoiser, by_graph: GraphDenoiser, generator: torch.Generator
) -> None:
    color = torch.rand(5, 64, 64, 3, generator=generator)
    weights = torch.randn(5, 12, 16, 16, generator=generator)
    leaves = [color.clone().requires_grad_() for _ in range(2)]
    latents = [each.encode(leaf) for each, leaf in zip((by_torch, by_graph), leaves, strict=True)]
    torch.testing.assert_close(latents[1], latents[0], **CLOSE)
    theirs, ours = (
        torch.autograd.grad((each * weights).sum(), leaf)[0]
        for each, leaf in zip(latents, leaves, strict=True)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)

    clean, target = latents[0].detach(), torch.rand(5, 64, 64, 3, generator=generator)
    torch.testing.assert_close(by_graph.decode(clean), by_torch.decode(clean), **CLOSE)
    theirs, ours = (pull_back(each, clean, lambda x: x - target) for each in (by_torch, by_graph))
    assert theirs.abs().max() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_texts_and_noise_schedule_are_the_same(by_torch: TorchDenoiser) -> None:
    folder = embedded_weights("prior")
    texts = ["", "a red cube", "a purple torus behind a white torus", "a cube " * 30]
    ours, theirs = embed_texts_by_graph(folder, texts), embed_texts(folder, texts, CPU)
    torch.testing.assert_close(ours.tokens, theirs.tokens, **CLOSE)
    assert ours.pooled is theirs.pooled is None

    schedule, expected = (
        GraphDenoiser(read_manifest(folder)).noise_schedule,
        by_torch.noise_schedule,
    )
    for name in ("signal", "sigma", "network_timesteps"):
        assert torch.equal(getattr(schedule, name), getattr(expected, name))
    assert schedule.prediction_type == expected.prediction_type


def test_images_of_another_size_are_refused(by_graph: GraphDenoiser) -> None:
    with pytest.raises(ShapeError, match=r"prior\.size_px=64"):
        by_graph.encode(torch.rand(4, 32, 32, 3))


def test_views_that_were_not_exported_are_refused(by_graph: GraphDenoiser) -> None:
    with pytest.raises(ConfigError, match="network_6"):
        by_graph.join_views(6)


def test_the_embedded_graphs_are_of_the_embedded_weights_and_name_no_machine() -> None:
    folder = embedded_weights("prior")
    manifest = read_manifest(folder)
    assert manifest.stale() is None
    assert set(manifest.sources) == {
        str(p.relative_to(folder)) for p in folder.glob("[!r]*/*.safetensors")
    }
    for path in folder.rglob("*.json"):
        assert "_name_or_path" not in path.read_text()


PRIOR, CAMERA = PriorConfig(), CameraConfig()
MISFITS = {
    "trains weights": (replace(PRIOR, loss="vsd"), CAMERA),
    "tiny_vae": (replace(PRIOR, tiny_vae="taesd"), CAMERA),
    "prior.compile": (replace(PRIOR, compile=True), CAMERA),
    "no graph denoises 6": (PRIOR, replace(CAMERA, n_views=6)),
    "images of 64 px": (PRIOR, replace(CAMERA, resolution_px=linear(32.0, 64.0))),
}


@pytest.mark.parametrize("reason", MISFITS)
def test_a_run_that_graphs_do_not_fit_takes_torch_unless_they_are_asked_for(reason: str) -> None:
    settings, camera = MISFITS[reason]
    folder = embedded_weights("prior")
    assert not uses_graphs(settings, folder, CPU, "full", camera)
    with pytest.raises(ConfigError, match=reason):
        uses_graphs(replace(settings, runtime="onnx"), folder, CPU, "full", camera)


def test_the_default_run_takes_graphs_where_they_are_fresh(tmp_path: Path) -> None:
    config = Config(prompt="a red cube")
    folder = embedded_weights("prior")
    assert uses_graphs(config.prior, folder, CPU, "full", config.camera)
    assert not uses_graphs(
        replace(config.prior, runtime="torch"), folder, CPU, "full", config.camera
    )
    assert not uses_graphs(config.prior, folder, CPU, "offload", config.camera)

    # A new training without a new export: the old graphs would draw with the new weights.
    copy = tmp_path / "prior"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "vae" / "diffusion_pytorch_model.safetensors")
    save_file(
        {k: v + 0.1 for k, v in weights.items()},
        copy / "vae" / "diffusion_pytorch_model.safetensors",
    )
    assert not uses_graphs(config.prior, copy, CPU, "full", config.camera)
    with pytest.raises(ConfigError, match="is not the file that was exported"):
        uses_graphs(replace(config.prior, runtime="onnx"), copy, CPU, "full", config.camera)
    shutil.rmtree(copy / FOLDER)
    with pytest.raises(ConfigError, match="vlm3d-gs models export"):
        uses_graphs(replace(config.prior, runtime="onnx"), copy, CPU, "full", config.camera)


def few_layers(folder: Path, vae_levels: int) -> Path:
    """Leave the autoencoder and the text encoder only one layer of each kind: tracing takes seconds a layer."""
    pipelines.tiny_vae(levels=vae_levels).save_pretrained(folder / "vae")
    width = CLIPTextConfig.from_pretrained(folder / "text_encoder").hidden_size
    CLIPTextModel(pipelines.clip_config(width, n_layers=1)).save_pretrained(folder / "text_encoder")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd21", "mvdream"])
def test_folders_of_others_can_be_exported(
    kind: str, tmp_path: Path, generator: torch.Generator
) -> None:
    if kind == "mvdream":
        unet = pipelines.tiny_mvdream_unet(tmp_path / "unet")
        folder, side_px = pipelines.tiny_mvdream(tmp_path / "m", unet), 8
        few_layers(folder, vae_levels=1)
    else:
        # Two levels have one step down and one up, whose gradients are written by hand.
        folder = few_layers(pipelines.tiny_sd21(tmp_path / "m"), vae_levels=2)
        side_px = 16
    export_prior(folder, size_px=side_px)

    ours, theirs = (
        GraphDenoiser(read_manifest(folder), 4),
        load_denoiser(folder, CPU, dtype=torch.float32),
    )
    theirs.join_views(4)
    texts = ["a corgi", "a corgi wearing a top hat"]
    text = embed_texts(folder, texts, CPU)
    torch.testing.assert_close(embed_texts_by_graph(folder, texts).tokens, text.tokens, **CLOSE)

    color = torch.rand(4, side_px, side_px, 3, generator=generator)
    latents = theirs.encode(color)
    assert latents.shape == (4, 4, 8, 8)
    torch.testing.assert_close(ours.encode(color), latents, **CLOSE)
    cameras = torch.randn(4, 16, generator=generator) if theirs.is_multiview else None
    timesteps = torch.tensor([10, 300, 500, 900])
    ours_out, theirs_out = (
        run_branches(each, latents, timesteps, [text.rows([0] * 4), text.rows([1] * 4)], cameras)
        for each in (ours, theirs)
    )
    torch.testing.assert_close(ours_out, theirs_out, **CLOSE)


def test_a_pipeline_with_two_text_encoders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one text encoder"):
        export_prior(pipelines.tiny_sdxl(tmp_path / "m"))

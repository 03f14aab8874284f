"""Pipeline folders of every family, against diffusers' own pipelines; and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from pipelines import tiny_sd3, tiny_sd15, tiny_sd21, tiny_sdxl
from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.prior.denoiser import TextEmbedding, encode_images, run_network
from vlm3d_gs.prior.loading.pipeline import (
    half_dtype,
    load_denoiser,
    load_noise_schedule,
    quiet_loading,
    vae_dtype,
    weights_variant,
)
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"
FAMILIES: dict[str, tuple[Callable[[Path], Path], type[DiffusionPipeline]]] = {
    "sd15": (tiny_sd15, StableDiffusionPipeline),
    "sd21": (tiny_sd21, StableDiffusionPipeline),
    "sdxl": (tiny_sdxl, StableDiffusionXLPipeline),
    "sd3": (tiny_sd3, StableDiffusion3Pipeline),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {name: build(root / name) for name, (build, _) in FAMILIES.items()}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A pipeline that a test may damage."""
    return Path(shutil.copytree(folders["sd15"], tmp_path / "sd15"))


def pair(folder: Path, family: str) -> tuple[TorchDenoiser, DiffusionPipeline]:
    """Ours and diffusers' reading of the same folder."""
    ours = load_denoiser(folder, CPU, dtype=torch.float32)
    return ours, FAMILIES[family][1].from_pretrained(folder, local_files_only=True)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("family", "width"), [("sd15", 32), ("sd21", 32), ("sdxl", 80)])
def test_a_unet_is_run_as_diffusers_runs_it(
    folders: dict[str, Path], family: str, width: int, generator: torch.Generator
) -> None:
    ours, theirs = pair(folders[family], family)
    noisy = torch.randn(2, 4, 8, 8, generator=generator)
    tokens = torch.randn(2, 77, width, generator=generator)
    pooled = torch.randn(2, 48, generator=generator) if family == "sdxl" else None
    timesteps = torch.tensor([3, 800])
    added = None
    if pooled is not None:
        sizes = theirs._get_add_time_ids((64, 64), (0, 0), (64, 64), torch.float32, 48)
        added = {"text_embeds": pooled, "time_ids": sizes.repeat(2, 1)}
    with torch.inference_mode():
        found = run_network(ours, noisy, timesteps, TextEmbedding(tokens, pooled))
        expected = theirs.unet(noisy, timesteps, tokens, added_cond_kwargs=added).sample
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.std() > 0.01


def test_an_sd3_transformer_is_run_as_diffusers_runs_it(
    folders: dict[str, Path], generator: torch.Generator
) -> None:
    ours, theirs = pair(folders["sd3"], "sd3")
    noisy = torch.randn(2, 16, 8, 8, generator=generator)
    tokens, pooled = (torch.randn(2, *size, generator=generator) for size in ((333, 96), (80,)))
    places = [990, 100]
    with torch.inference_mode():
        found = run_network(ours, noisy, 999 - torch.tensor(places), TextEmbedding(tokens, pooled))
        expected = theirs.transformer(
            hidden_states=noisy,
            timestep=theirs.scheduler.timesteps[places],
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
        ).sample
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_pictures_are_encoded_in_the_unit_of_the_pipeline(
    folders: dict[str, Path], family: str, generator: torch.Generator
) -> None:
    ours, theirs = pair(folders[family], family)
    color = torch.rand(1, 64, 64, 3, generator=generator)
    found = encode_images(ours, color)
    pixels = theirs.image_processor.preprocess(color.movedim(-1, 1))
    with torch.inference_mode():
        latents = theirs.vae.encode(pixels).latent_dist.mean
        scaled = found / theirs.vae.config.scaling_factor + (theirs.vae.config.shift_factor or 0.0)
    assert found.shape[2:] == (8, 8)
    torch.testing.assert_close(scaled, latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_networks_come_frozen_and_in_evaluation_mode(folders: dict[str, Path], family: str) -> None:
    denoiser = load_denoiser(folders[family], CPU)
    for network in (denoiser.network, denoiser.vae):
        assert not network.training
        assert not any(part.requires_grad for part in network.parameters())
        assert {part.dtype for part in network.parameters()} == {torch.float32}
    assert not denoiser.is_multiview
    assert denoiser.latent_factor * denoiser.network.config.sample_size == 64


@pytest.mark.parametrize(("family", "kind"), [("sd15", "epsilon"), ("sd21", "v_prediction")])
def test_noise_is_added_as_the_pipeline_adds_it(
    folders: dict[str, Path], family: str, kind: str
) -> None:
    ours, theirs = pair(folders[family], family)
    assert ours.noise_schedule.prediction_type == kind
    clean, noise = torch.ones(3, 1, 1, 1), torch.full((3, 1, 1, 1), 2.0)
    timesteps = torch.tensor([0, 400, 999])
    signal, sigma = ours.noise_schedule.levels(timesteps)
    torch.testing.assert_close(
        signal * clean + sigma * noise, theirs.scheduler.add_noise(clean, noise, timesteps)
    )


def test_the_schedule_of_euler_is_that_of_its_betas(folders: dict[str, Path]) -> None:
    scheduler = EulerDiscreteScheduler.from_pretrained(folders["sdxl"] / "scheduler")
    noise_schedule = load_noise_schedule(folders["sdxl"] / "scheduler")
    torch.testing.assert_close(noise_schedule.signal.square(), scheduler.alphas_cumprod)


def test_the_schedule_of_a_flow_is_shifted(folders: dict[str, Path]) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folders["sd3"] / "scheduler")
    noise_schedule = load_noise_schedule(folders["sd3"] / "scheduler")
    torch.testing.assert_close(noise_schedule.sigma.flip(0), scheduler.sigmas)
    torch.testing.assert_close(noise_schedule.network_timesteps.flip(0), scheduler.timesteps)
    assert noise_schedule.prediction_type == "flow_prediction"


def test_the_embedded_prior_is_a_pipeline_like_the_others() -> None:
    folder = embedded_weights("prior")
    denoiser = load_denoiser(folder, CPU)
    assert denoiser.is_multiview
    assert denoiser.latent_factor * denoiser.network.config.sample_size == 64
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    torch.testing.assert_close(denoiser.noise_schedule.signal.square(), scheduler.alphas_cumprod)
    assert denoiser.noise_schedule.prediction_type == "v_prediction"


def test_half_precision_files_are_read_where_there_are_no_others(copy: Path) -> None:
    expected = load_denoiser(copy, CPU).network.state_dict()
    path = copy / "unet" / WEIGHTS
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    found = load_denoiser(copy, CPU).network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_an_explicit_precision_is_kept(folders: dict[str, Path]) -> None:
    denoiser = load_denoiser(folders["sd21"], CPU, dtype=torch.bfloat16)
    assert denoiser.network.dtype == torch.bfloat16
    assert denoiser.vae.dtype == torch.float32
    assert denoiser.autocast is None


@pytest.mark.parametrize(
    ("pipeline", "upcast", "device", "expected"),
    [
        ("StableDiffusionPipeline", None, "cuda", torch.float16),
        ("StableDiffusionPipeline", True, "cuda", torch.float16),
        ("MVDreamPipeline", True, "cuda", torch.float16),
        ("StableDiffusionXLPipeline", None, "cuda", torch.float32),
        ("StableDiffusionXLPipeline", True, "cuda", torch.float32),
        ("StableDiffusionXLPipeline", False, "cuda", torch.float16),
        ("StableDiffusion3Pipeline", True, "cuda", torch.float16),
        ("StableDiffusionPipeline", False, "cpu", torch.float32),
    ],
)
def test_only_the_vae_that_overflows_stays_in_float32_on_cuda(
    pipeline: str, upcast: bool | None, device: str, expected: torch.dtype
) -> None:
    config: dict[str, object] = {"_class_name": "AutoencoderKL"}
    if upcast is not None:
        config["force_upcast"] = upcast
    assert vae_dtype(config, pipeline, torch.device(device), torch.float16) == expected
    tiny = {"_class_name": "AutoencoderTiny"}
    assert vae_dtype(tiny, pipeline, torch.device(device), torch.float16) == torch.float32


@pytest.mark.gpu
def test_on_cuda_the_network_runs_in_half_precision(folders: dict[str, Path]) -> None:
    cuda = torch.device("cuda")
    denoiser = load_denoiser(folders["sd15"], cuda)
    assert denoiser.network.dtype == half_dtype("UNet2DConditionModel") == torch.float16
    assert denoiser.vae.dtype == torch.float16
    noisy, tokens = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 32)
    timesteps = torch.tensor([500])
    slow = run_network(
        load_denoiser(folders["sd15"], CPU, dtype=torch.float32),
        noisy,
        timesteps,
        TextEmbedding(tokens),
    )
    fast = run_network(denoiser, noisy.cuda(), timesteps.cuda(), TextEmbedding(tokens.cuda()))
    torch.testing.assert_close(fast.cpu(), slow, atol=2e-2, rtol=2e-2)


def test_a_folder_without_index_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a diffusion pipeline.*model_index.json"):
        load_denoiser(tmp_path, CPU)


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler"])
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ConfigError, match=f"{part}.*config.json is missing"):
        load_denoiser(copy, CPU)


def test_a_pipeline_without_network_is_refused(copy: Path) -> None:
    edit(copy / "model_index.json", unet=[None, None])
    with pytest.raises(ConfigError, match="neither unet nor transformer, but scheduler"):
        load_denoiser(copy, CPU)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_pickles_are_not_read(copy: Path, part: str) -> None:
    path = copy / part / WEIGHTS
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(ConfigError, match=f"{part} has its weights only as .*bin, a pickle"):
        load_denoiser(copy, CPU)
    path.with_suffix(".bin").unlink()
    with pytest.raises(ConfigError, match=f"{part} has no weights: {WEIGHTS} is missing"):
        load_denoiser(copy, CPU)


@pytest.mark.parametrize(
    ("part", "name"), [("unet", "UNet3DConditionModel"), ("vae", "AutoencoderKLWan")]
)
def test_an_unknown_network_is_refused(copy: Path, part: str, name: str) -> None:
    edit(copy / part / "config.json", _class_name=name)
    with pytest.raises(ConfigError, match=f"'{name}' .* not supported. Allowed: "):
        load_denoiser(copy, CPU)


@pytest.mark.parametrize(
    "settings",
    [
        {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
    ],
)
def test_an_unknown_schedule_is_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=f"{settings['_class_name']} .* not supported. Allowed"):
        load_noise_schedule(tmp_path)


def test_a_truncated_file_is_refused(copy: Path) -> None:
    path = copy / "unet" / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputFileError, match="unet cannot be read"):
        load_denoiser(copy, CPU)
    (copy / "model_index.json").write_text("{")
    with pytest.raises(InputFileError, match="is not JSON"):
        load_denoiser(copy, CPU)


def test_a_tensor_that_no_file_holds_is_not_drawn_at_random(copy: Path) -> None:
    path = copy / "unet" / WEIGHTS
    tensors = load_file(path)
    del tensors["conv_out.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(InputFileError, match="lack 1 tensors .* conv_out.weight"):
        load_denoiser(copy, CPU)


def test_sharded_weights_are_found(tmp_path: Path) -> None:
    (tmp_path / f"{WEIGHTS}.index.json").touch()
    assert weights_variant(tmp_path, "diffusion_pytorch_model") is None


def test_progress_bars_come_back_after_loading() -> None:
    libraries = (diffusers_logging, transformers_logging)
    before = [library.is_progress_bar_enabled() for library in libraries]
    with quiet_loading():
        assert not any(library.is_progress_bar_enabled() for library in libraries)
    assert [library.is_progress_bar_enabled() for library in libraries] == before

"""The memory estimate against traces of the real architectures on `meta`, the plans, and moving modules."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

from vlm3d_gs.assembly.memory import (
    FAMILIES,
    GAUSSIAN_BYTES,
    MIB,
    TINY_VAE_ENCODE,
    CriticWork,
    MemoryEstimate,
    choose_plan,
    count_parameters,
    critic_values,
    critic_work,
    describe,
    estimate,
    need_mib,
)
from vlm3d_gs.config import OptimConfig
from vlm3d_gs.core.errors import ConfigError, DeviceError, InputFileError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.residency import resident
from vlm3d_gs.mini.prior.train import new_prior
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.optimize.optimizer import SceneOptimizer

SD21 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
SD_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
SD_PARAMETERS = {"network": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make, and takes them off when they are freed."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in module.parameters()}

    def freed(self, key: int, size: int) -> None:
        self.now -= size
        self.known.discard(key)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for item in tree_leaves(result):
            if isinstance(item, Tensor) and item.untyped_storage()._cdata not in self.known:
                storage = item.untyped_storage()
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        return result


class LinearMemoryAttention(torch.autograd.Function):
    """Keeps what a GPU's attention kernel keeps; `meta` would count the whole matrix of scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@pytest.fixture
def _attention_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        F,
        "scaled_dot_product_attention",
        lambda query, key, value, *_, **__: LinearMemoryAttention.apply(query, key, value),
    )


def peak_values(module: nn.Module, work: Callable[[], object]) -> float:
    """Return the largest number of values alive at once, beside the weights."""
    with torch.device("meta"), LiveBytes(module) as live:
        work()
    size = next(module.parameters()).element_size()
    return live.peak / size


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build().eval().requires_grad_(False)


def parameter_count(build: Callable[[], nn.Module]) -> int:
    """Count the parameters of what `build` constructs, on the `meta` device: no memory, no weights."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def sd_estimate(**changes: Any) -> MemoryEstimate:
    settings: dict[str, Any] = {
        "family": "sd",
        "parameters": SD_PARAMETERS,
        "pictures": 4,
        "resolution_px": 512,
    }
    return estimate(**(settings | changes))


def test_published_parameter_counts_without_weights() -> None:
    assert parameter_count(lambda: UNet2DConditionModel(**SD21)) == 865_910_724
    cameras = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
    assert parameter_count(lambda: UNet2DConditionModel(**SD21, **cameras)) == 867_572_164
    found = sd_estimate(parameters={"network": 867_572_164})
    assert found.weights["network"] * MIB == pytest.approx(1.735e9, rel=1e-3)


@pytest.mark.usefixtures("_attention_kernel")
@pytest.mark.parametrize("px", [128, 512])
def test_the_encoders_graph_is_as_large_as_said(px: int) -> None:
    def pull(encode: Callable[[Tensor], Tensor]) -> None:
        picture = torch.rand(2, 3, px, px, requires_grad=True)
        torch.autograd.grad(encode(picture).sum(), picture)

    vae = on_meta(lambda: AutoencoderKL(**SD_VAE))
    found = peak_values(vae, lambda: pull(lambda x: vae.encode(x).latent_dist.mean))
    assert found / (2 * px * px) == pytest.approx(FAMILIES["sd"].encode, rel=0.03)
    tiny = on_meta(AutoencoderTiny)
    found = peak_values(tiny, lambda: pull(lambda x: tiny.encode(x).latents))
    assert found / (2 * px * px) == pytest.approx(TINY_VAE_ENCODE, rel=0.03)


@pytest.mark.usefixtures("_attention_kernel")
def test_the_networks_peak_is_as_large_as_said() -> None:
    unet = on_meta(lambda: UNet2DConditionModel(**SD21))

    def run(requires_grad: bool) -> Tensor:
        latents = torch.rand(2, 4, 32, 32, requires_grad=requires_grad)
        out = unet(latents, torch.zeros(2, dtype=torch.int64), torch.rand(2, 77, 1024)).sample
        return torch.autograd.grad(out.sum(), latents)[0] if requires_grad else out

    pixels = 2 * 256 * 256
    with torch.no_grad():
        found = peak_values(unet, lambda: run(False))
    assert found / pixels == pytest.approx(FAMILIES["sd"].network, rel=0.03)
    found = peak_values(unet, lambda: run(True))
    assert found / pixels == pytest.approx(FAMILIES["sd"].trained, rel=0.03)


def test_the_embedded_networks_peak_is_as_large_as_said() -> None:
    unet = new_prior(1).unet.to("meta").eval()

    def run() -> None:
        steps, text = torch.zeros(4, dtype=torch.int64), torch.rand(4, 16, 192)
        unet(torch.rand(4, 12, 16, 16), steps, text, class_labels=torch.zeros(4, 16))

    with torch.no_grad():
        found = peak_values(unet, run)
    # Its attention is counted with the matrix of scores, which is small here.
    assert found / (4 * 64 * 64) == pytest.approx(FAMILIES["mini"].network, rel=0.1)


@pytest.mark.usefixtures("_attention_kernel")
@pytest.mark.parametrize(("width", "wide", "heads"), [(3584, 18944, (28, 4)), (2048, 11008, (16, 2))])  # fmt: skip
def test_the_critics_graph_is_as_large_as_said(
    width: int, wide: int, heads: tuple[int, int]
) -> None:
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": width,
            "intermediate_size": wide,
            "num_hidden_layers": 1,
            "num_attention_heads": heads[0],
            "num_key_value_heads": heads[1],
            "vocab_size": 8,
        },
        vision_config={"depth": 1, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
    )
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "sdpa"
    text = on_meta(lambda: qwen.Qwen2_5_VLDecoderLayer(config.text_config, 0))
    vision = on_meta(lambda: qwen.Qwen2_5_VLVisionBlock(config.vision_config, "sdpa"))
    tokens, ends = 64, torch.tensor([0, 64], dtype=torch.int32)

    def ask() -> None:
        turns = (torch.rand(1, tokens, 128),) * 2
        text(torch.rand(1, tokens, width, requires_grad=True), position_embeddings=turns)

    def look() -> None:
        turns = (torch.rand(tokens, 80),) * 2
        hidden = torch.rand(tokens, 1280, requires_grad=True)
        vision(hidden, cu_seqlens=ends, position_embeddings=turns)

    none = (0, 0, 0)
    said = critic_values(CriticWork(0, tokens, none, (1, width, wide)))
    assert peak_values(text, ask) < 1.15 * said
    assert peak_values(text, ask) > 0.75 * said
    said = critic_values(CriticWork(tokens, 0, (1, 1280, 3420), none))
    assert peak_values(vision, look) < 1.3 * said
    assert peak_values(vision, look) > 0.75 * said


def test_a_critics_work_is_read_from_either_form_of_its_config() -> None:
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "patch_size": 14,
        "spatial_merge_size": 2,
    }
    text = {"num_hidden_layers": 28, "hidden_size": 3584, "intermediate_size": 18944}
    nested = critic_work({"vision_config": vision, "text_config": text}, 4, 252, 100)
    assert nested == critic_work({"vision_config": vision, **text}, 4, 252, 100)
    assert nested == CriticWork(patches=4 * 18 * 18, tokens=4 * 9 * 9 + 100)


def test_gaussians_count_as_the_optimizer_holds_them(generator: torch.Generator) -> None:
    shapes = ((50, 3), (50, 3), (50, 4), (50,), (50, 16, 3))
    scene = Gaussians(*(torch.rand(shape, generator=generator) for shape in shapes))
    optimizer = SceneOptimizer(scene, OptimConfig())
    gaussians = optimizer.gaussians
    sum(value.sum() for value in gaussians.parameters().values()).backward()
    optimizer.step(0.0)
    held = sum(
        tensor.nbytes * (2 if name.startswith("parameter.") else 1)  # the gradient beside it
        for name, tensor in optimizer.state_tensors().items()
        if not name.startswith("adam.step")
    )
    assert held == 50 * GAUSSIAN_BYTES


def test_parts_scale_as_they_should() -> None:
    base = sd_estimate()
    assert sd_estimate(pictures=8).encode == pytest.approx(2.0 * base.encode)
    assert sd_estimate(resolution_px=256).encode == pytest.approx(base.encode / 4.0)
    assert sd_estimate(vae_dtype_bytes=2).encode == pytest.approx(base.encode / 2.0)
    assert sd_estimate(branches=4).network == pytest.approx(2.0 * base.network)
    assert sd_estimate(dtype_bytes=4).weights["network"] == 2.0 * base.weights["network"]
    assert base.encode_one * 4 == base.encode > base.network
    both = {f"{prior}.{name}": n for prior in ("mv", "sd") for name, n in SD_PARAMETERS.items()}
    assert sd_estimate(parameters=both).encode == pytest.approx(2.0 * base.encode)
    with_lora = sd_estimate(parameters=SD_PARAMETERS | {"lora": 1_000_000})
    assert with_lora.weights["lora"] * MIB == 16e6
    assert with_lora.network > base.network


def test_unknown_families_and_empty_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="mvdream"):
        sd_estimate(family="dalle")
    with pytest.raises(ConfigError, match="pictures must be at least 1"):
        sd_estimate(pictures=0)


def test_frugal_plans_need_less_and_the_quickest_that_fits_is_taken() -> None:
    critic = CriticWork(patches=1296, tokens=524)
    parts = sd_estimate(parameters=SD_PARAMETERS | {"critic": 8_292_166_656}, critic=critic)
    full, offload, sequential = (
        need_mib(parts, plan) for plan in ("full", "offload", "sequential")
    )
    assert full == parts.total > offload > sequential
    # Weights of 8.3 and 0.87 thousand million values at two bytes are among what is resident.
    assert full > (8_292_166_656 + 865_910_724) * 2 / MIB
    for free, kind in ((full, "full"), (full - 1, "offload"), (offload - 1, "sequential")):
        plan = choose_plan(parts, free)
        assert plan.kind == kind
        assert plan.need <= free
        assert kind in plan.reason
        assert f"{free:.0f} MiB free" in plan.reason
    with pytest.raises(DeviceError) as caught:
        choose_plan(parts, sequential - 1)
    for text in (f"{sequential:.0f} MiB", f"{sequential - 1:.0f} MiB", "preset", "resolution", "mini"):  # fmt: skip
        assert text in str(caught.value)


def test_needs_of_the_plans_add_up_by_hand() -> None:
    weights = {"network": 100.0, "vae": 10.0, "critic": 50.0, "text_encoder": 5.0}
    parts = MemoryEstimate(weights, 1.0, 40.0, 10.0, 8.0, 4.0, 20.0, cuda=7.0)
    assert need_mib(parts, "full") == pytest.approx(7.0 + 1.1 * (1 + 10 + 100 + 50 + 40 + 20))
    assert need_mib(parts, "offload") == pytest.approx(7.0 + 1.1 * (1 + 10 + 40 + 108))
    assert need_mib(parts, "sequential") == pytest.approx(7.0 + 1.1 * (1 + 10 + 104))
    large_text = MemoryEstimate({**weights, "text_encoder_3": 900.0}, 1, 1, 1, 1, 1, 1, cuda=7.0)
    assert need_mib(large_text, "sequential") == pytest.approx(7.0 + 1.1 * 900.0)


def test_the_line_for_the_user_names_the_parts() -> None:
    line = describe(sd_estimate(gaussians=100_000))
    assert "network weights 1652" in line
    assert "encoding" in line
    assert "text_encoder" not in line
    assert "critic's answers" not in line
    assert "Gaussians" in line


def test_counting_reads_headers_alone(tmp_path: Path) -> None:
    shard = {"a.weight": torch.zeros(3, 5), "a.bias": torch.zeros(3)}
    save_file(shard, tmp_path / "model-00001-of-00002.safetensors", {"format": "pt"})
    rest = {"b": torch.zeros(2, 2, dtype=torch.bfloat16), "ids": torch.zeros(9, dtype=torch.int64)}
    save_file(rest, tmp_path / "model-00002-of-00002.safetensors")
    save_file({"b": torch.zeros(2, 2).half()}, tmp_path / "model.fp16.safetensors")
    assert count_parameters(tmp_path) == 15 + 3 + 4
    assert count_parameters(tmp_path / "model.fp16.safetensors") == 4


def test_the_embedded_prior_counts_as_it_is_built() -> None:
    folder = embedded_weights("prior") / "unet"
    config = json.loads((folder / "config.json").read_text())
    built = parameter_count(lambda: UNet2DConditionModel.from_config(config))
    assert count_parameters(folder) == built


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no .safetensors file"):
        count_parameters(tmp_path)
    file = tmp_path / "model.safetensors"
    for content in (b"", b"\0" * 4, b"\xff" * 20, _with_header(b"abc"), _with_header(b"[1]")):
        file.write_bytes(content)
        with pytest.raises(InputFileError, match="model.safetensors"):
            count_parameters(tmp_path)


def _with_header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


class Travelling(nn.Linear):
    """A layer that writes down its moves."""

    def __init__(self, name: str, journal: list[str]) -> None:
        super().__init__(2, 2)
        self.name, self.journal = name, journal

    def to(self, *args: Any, **kwargs: Any) -> Travelling:
        self.journal.append(f"{self.name} to {args[0]}")
        return super().to(*args, **kwargs)


def test_modules_take_turns_and_go_home_even_after_an_error() -> None:
    journal: list[str] = []
    vae, unet = Travelling("vae", journal), Travelling("unet", journal)
    there = torch.device("cpu", 0)
    with resident(vae, there) as module:
        assert module is vae
        journal.append("encode")
    with pytest.raises(KeyError), resident(unet, there):
        raise KeyError
    assert journal == ["vae to cpu:0", "encode", "vae to cpu", "unet to cpu:0", "unet to cpu"]


def test_staying_on_a_device_moves_nothing(generator: torch.Generator) -> None:
    layer = nn.Linear(3, 2)
    place, inputs = layer.weight.data_ptr(), torch.randn(4, 3, generator=generator)
    wanted = layer(inputs)
    with resident(layer, torch.device("cpu")):
        assert layer.weight.data_ptr() == place
        assert torch.equal(layer(inputs), wanted)
    assert layer.weight.data_ptr() == place

"""The LoRA of variational score distillation on small real networks of every family."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from small_denoisers import NETWORKS, Batch, make, noise_schedule_of
from vlm3d_gs.core.errors import CheckpointError, ConfigError, ShapeError
from vlm3d_gs.prior.denoiser import TextEmbedding, run_network
from vlm3d_gs.prior.lora import ScoreAdapter
from vlm3d_gs.prior.multiview import join_views
from vlm3d_gs.prior.noise import PREDICTION_TYPES, clean_and_noise, training_target
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser
from vlm3d_gs.runs.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def batch() -> Batch:
    return Batch()


@pytest.mark.parametrize("family", NETWORKS)
def test_a_fresh_adapter_says_what_the_base_says(family: str, batch: Batch) -> None:
    denoiser = make(family)
    expected = clean_and_noise(
        denoiser.noise_schedule, batch.base(denoiser), batch.noisy, batch.timesteps
    )
    clean, noise = batch.adapted(ScoreAdapter(denoiser, seed=1))
    assert torch.equal(clean, expected[0])
    assert torch.equal(noise, expected[1])
    assert not noise.requires_grad


@pytest.mark.parametrize("family", NETWORKS)
def test_training_changes_the_adapter_and_leaves_no_trace_on_the_base(
    family: str, batch: Batch
) -> None:
    denoiser = make(family)
    network = denoiser.network
    next(network.parameters()).requires_grad_(True)
    flags = [parameter.requires_grad for parameter in network.parameters()]
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    before = batch.base(denoiser)
    adapter = ScoreAdapter(denoiser, seed=1, lr=1e-2)
    fresh = adapter.state_tensors()
    assert torch.equal(batch.base(denoiser), before)
    batch.train(adapter, 3)
    assert torch.equal(batch.base(denoiser), before)
    moved = (batch.adapted(adapter)[1] - before).abs().amax((1, 2, 3))
    assert (moved > 1e-4).all()
    trained = adapter.state_tensors()
    unchanged = [name for name, value in fresh.items() if torch.equal(value, trained[name])]
    assert not unchanged
    assert all(parameter.grad is None for parameter in network.parameters())
    adapter.remove()
    adapter.remove()
    assert torch.equal(batch.base(denoiser), before)
    assert list(network.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert [parameter.requires_grad for parameter in network.parameters()] == flags
    with pytest.raises(ConfigError, match="was removed"):
        batch.adapted(adapter)
    assert torch.equal(batch.adapted(ScoreAdapter(denoiser, seed=2))[1], before)


def merged(
    adapter: ScoreAdapter, family: str, factor: float, camera: torch.Tensor
) -> TorchDenoiser:
    """An independent copy: W + factor B A in plain layers, and the camera without a hook.

    Where the UNet can have a class embedding of its own, that is the camera's; elsewhere one camera [16] for all
    rows is a shift of the time embedding's bias.
    """
    copy = make("multiview" if family == "sd" else family)
    weights = make(family).network.state_dict()
    state = {name: value.detach() for name, value in adapter.parameters.items()}
    for name, up in state.items():
        if name.endswith("lora_B"):
            layer = name.removesuffix(".lora_B")
            weights[f"{layer}.weight"] += factor * up @ state[f"{layer}.lora_A"]
    own = {name.removeprefix("camera."): state[name] for name in state if "camera." in name}
    if family == "sd":
        weights |= {f"class_embedding.{name}": value for name, value in own.items()}
    elif own:
        place = "time_text_embed.timestep_embedder" if family == "sd3" else "time_embedding"
        hidden = own["linear_1.weight"] @ camera + own["linear_1.bias"]
        shift = own["linear_2.weight"] @ (hidden * hidden.sigmoid()) + own["linear_2.bias"]
        assert shift.abs().max() > 1e-3
        weights[f"{place}.linear_2.bias"] += shift
    copy.network.load_state_dict(weights)
    return copy


@pytest.mark.parametrize(
    ("family", "n_views"),
    [("sd", 1), ("sd", 2), ("multiview", 1), ("multiview", 2), ("sdxl", 1), ("sd3", 1)],
)
def test_the_trained_adapter_is_the_network_with_merged_weights(
    family: str, n_views: int, batch: Batch
) -> None:
    denoiser = make(family)
    adapter = ScoreAdapter(denoiser, seed=1, rank=2, alpha=6.0, lr=2e-2)
    if n_views > 1:
        join_views(denoiser.network, n_views)
    batch.train(adapter, 4)
    if family in {"sdxl", "sd3"}:
        batch.camera_matrices = batch.camera_matrices[1].expand(4, -1)
    witness = merged(adapter, family, 6.0 / 2, batch.camera_matrices[1])
    if n_views > 1:
        join_views(witness.network, n_views)
    torch.testing.assert_close(batch.adapted(adapter)[1], batch.base(witness), atol=2e-5, rtol=2e-5)


def test_joined_views_hear_each_other_through_the_low_rank_layers(batch: Batch) -> None:
    denoiser = make("multiview")
    adapter = ScoreAdapter(denoiser, seed=1, lr=2e-2)
    join_views(denoiser.network, 2)
    batch.train(adapter, 4)
    first = batch.adapted(adapter)[1]
    batch.noisy[1] += 1.0
    moved = (batch.adapted(adapter)[1] - first).abs().amax((1, 2, 3))
    assert (moved[:2] > 1e-5).all()
    assert (moved[2:] < 1e-6).all()


def targets_by_hand(kind: str, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    noisy, target = torch.empty_like(batch.clean), torch.empty_like(batch.clean)
    for row, t in enumerate(batch.timesteps.tolist()):
        if kind == "flow_prediction":
            even = (t + 1) / 100
            sigma = 3.0 * even / (1.0 + 2.0 * even)
            signal = 1.0 - sigma
        else:
            alpha_bar = 0.999 + (0.01 - 0.999) * t / 99
            signal, sigma = alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5
        clean, noise = batch.clean[row], batch.noise[row]
        noisy[row] = signal * clean + sigma * noise
        if kind == "epsilon":
            target[row] = noise
        elif kind == "v_prediction":
            target[row] = signal * noise - sigma * clean
        elif kind == "sample":
            target[row] = clean
        else:
            target[row] = noise - clean
    return noisy, target


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_the_loss_is_the_mean_square_distance_to_the_true_target(
    family: str, kind: str, batch: Batch
) -> None:
    denoiser = make(family, kind)
    noisy, target = targets_by_hand(kind, batch)
    text = batch.text_for(denoiser)
    with torch.no_grad():
        output = run_network(denoiser, noisy, batch.timesteps, text)
    expected = float((output - target).square().sum() / output.numel())
    found = ScoreAdapter(denoiser, seed=1).train_step(
        batch.clean,
        text,
        batch.camera_matrices,
        torch.Generator(),
        timesteps=batch.timesteps,
        noise=batch.noise,
    )
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_a_network_that_outputs_the_target_is_right(kind: str, batch: Batch) -> None:
    noise_schedule = noise_schedule_of(kind)
    noisy, _ = targets_by_hand(kind, batch)
    target = training_target(noise_schedule, batch.clean, batch.noise, batch.timesteps)
    inside = noise_schedule.signal[batch.timesteps] > 0.0  # the flow's last timestep is noise alone
    clean, noise = clean_and_noise(noise_schedule, target, noisy, batch.timesteps)
    torch.testing.assert_close(clean[inside], batch.clean[inside], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(noise, batch.noise, atol=1e-4, rtol=1e-4)


def first_gradient(adapter: ScoreAdapter, name: str) -> torch.Tensor:
    """AdamW's first moment after one step is a tenth of the gradient."""
    return adapter.state_tensors()[f"adam.{name}.exp_avg"] / 0.1


def test_the_gradient_is_that_of_the_weight_it_stands_for(batch: Batch) -> None:
    adapter = ScoreAdapter(make("multiview"), seed=1, rank=2, alpha=6.0)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_v"
    down = adapter.parameters[f"{layer}.lora_A"].detach().clone()
    text = TextEmbedding(batch.text.tokens)
    adapter.train_step(
        batch.clean,
        text,
        batch.camera_matrices,
        torch.Generator(),
        timesteps=batch.timesteps,
        noise=batch.noise,
    )
    witness = make("multiview")
    weight = witness.network.get_parameter(f"{layer}.weight").requires_grad_()
    noisy, target = targets_by_hand("epsilon", batch)
    loss = (
        (run_network(witness, noisy, batch.timesteps, text, batch.camera_matrices) - target)
        .square()
        .mean()
    )
    (gradient,) = torch.autograd.grad(loss, weight)
    expected = 6.0 / 2 * gradient @ down.T
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(
        first_gradient(adapter, f"{layer}.lora_B"), expected, atol=1e-8, rtol=1e-4
    )


@pytest.mark.parametrize(("family", "kind"), [("sd", "v_prediction"), ("sd3", "flow_prediction")])
def test_it_learns_the_pictures_it_is_shown(family: str, kind: str, batch: Batch) -> None:
    denoiser = make(family, kind)
    # The last layer is frozen and, untrained, too weak to write a clean latent of this size.
    last = "conv_out" if family == "sd" else "proj_out"
    denoiser.network.get_parameter(f"{last}.weight").data *= 4.0
    batch.clean = torch.tensor([3.0, -2.0, 2.0, -3.0])[:, None, None].expand(4, 4, 8, 8)
    losses = batch.train(ScoreAdapter(denoiser, seed=1, lr=5e-2), 40)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize("family", NETWORKS)
def test_cameras_matter_once_trained(family: str, batch: Batch) -> None:
    adapter = ScoreAdapter(make(family), seed=1, lr=1e-2)
    batch.train(adapter, 3)
    turned = batch.camera_matrices.roll(1, 0)
    assert (batch.adapted(adapter)[1] - batch.adapted(adapter, turned)[1]).abs().max() > 1e-4


def test_dropped_cameras_are_zeros(batch: Batch) -> None:
    losses = {}
    for dropout, cameras in [
        (0.0, batch.camera_matrices),
        (1.0, batch.camera_matrices),
        (0.0, None),
    ]:
        adapter = ScoreAdapter(make("sd"), seed=1, lr=1e-2, camera_dropout=0.0)
        batch.train(adapter, 3)
        adapter.camera_dropout = dropout
        losses[dropout, cameras is None] = adapter.train_step(
            batch.clean, batch.text_for(adapter.denoiser), cameras, torch.Generator().manual_seed(2)
        )
    assert losses[1.0, False] == losses[0.0, True]
    assert losses[1.0, False] != losses[0.0, False]


def test_views_of_an_object_share_a_timestep(batch: Batch) -> None:
    drawn, fixed = (ScoreAdapter(make("sd"), seed=1) for _ in range(2))
    text = TextEmbedding(batch.text.tokens)
    generator = torch.Generator().manual_seed(4)
    timesteps = torch.randint(100, (2,), generator=generator)[[0, 0, 1, 1]]
    noise = torch.randn(4, 4, 8, 8, generator=generator)
    first = drawn.train_step(
        batch.clean, text, batch.camera_matrices, torch.Generator().manual_seed(4), n_views=2
    )
    second = fixed.train_step(
        batch.clean,
        text,
        batch.camera_matrices,
        torch.Generator().manual_seed(4),
        timesteps=timesteps,
        noise=noise,
    )
    assert first == second
    with pytest.raises(ShapeError, match="groups of 3"):
        drawn.train_step(batch.clean, text, batch.camera_matrices, generator, n_views=3)


def test_parameters_are_those_counted_by_hand() -> None:
    # Four blocks of width 16, text of width 8: attn1 has four layers 16 -> 16, attn2 two of those and two 8 -> 16.
    low_rank = 4 * 3 * (4 * (16 + 16) + 2 * (16 + 16) + 2 * (8 + 16))
    camera = (16 * 32 + 32) + (32 * 32 + 32)
    for family, expected in [("sd", low_rank + camera), ("multiview", low_rank)]:
        adapter = ScoreAdapter(make(family), seed=1, rank=3)
        assert sum(parameter.numel() for parameter in adapter.parameters.values()) == expected


def test_the_seed_alone_decides_the_weights() -> None:
    denoisers = [make("sd") for _ in range(3)]
    state = torch.get_rng_state()
    first = ScoreAdapter(denoisers[0], seed=1).state_tensors()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second = ScoreAdapter(denoisers[1], seed=1).state_tensors()
    other = ScoreAdapter(denoisers[2], seed=2).state_tensors()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {name for name in first if not torch.equal(first[name], other[name])} == {
        name for name in first if name.endswith(("lora_A", "camera.linear_1.weight"))
    }


@pytest.mark.parametrize("steps", [0, 3])
def test_a_resumed_adapter_goes_on_bit_for_bit(steps: int, batch: Batch, tmp_path: Path) -> None:
    whole = ScoreAdapter(make("sd"), seed=1, weight_decay=0.01)
    batch.train(whole, steps)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, step=steps, tensors=whole.state_tensors(), meta={})
    resumed = ScoreAdapter(make("sd"), seed=8, weight_decay=0.01)
    batch.train(resumed, 1)
    resumed.load_state_tensors(load_checkpoint(path).tensors)
    assert batch.train(whole, 4, seed=6) == batch.train(resumed, 4, seed=6)
    left, right = whole.state_tensors(), resumed.state_tensors()
    assert set(left) == set(right)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_checkpoint_of_another_rank_is_refused_unread(batch: Batch) -> None:
    small, large = (ScoreAdapter(make("sd"), seed=1, rank=rank) for rank in (2, 4))
    batch.train(small, 1)
    before = large.state_tensors()
    with pytest.raises(CheckpointError, match="differ in name or shape"):
        large.load_state_tensors(small.state_tensors())
    tensors = small.state_tensors()
    tensors.pop("adam.camera.linear_1.bias.exp_avg")
    with pytest.raises(CheckpointError, match=r"1 tensors .* adam.camera.linear_1.bias.exp_avg"):
        small.load_state_tensors(tensors)
    assert all(torch.equal(value, before[name]) for name, value in large.state_tensors().items())


def test_what_cannot_be_done_is_refused() -> None:
    denoiser = make("sd")
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        ScoreAdapter(denoiser, seed=1, rank=0)
    ScoreAdapter(denoiser, seed=1)
    with pytest.raises(ConfigError, match="LoRA layers already"):
        ScoreAdapter(denoiser, seed=1)


def test_a_gradient_that_is_not_finite_changes_nothing(batch: Batch) -> None:
    adapter = ScoreAdapter(make("sd"), seed=1)
    batch.train(adapter, 1)
    before = adapter.state_tensors()
    batch.clean = batch.clean * float("nan")
    batch.train(adapter, 1)
    assert all(torch.equal(value, before[name]) for name, value in adapter.state_tensors().items())


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_gradient_checkpointing_gives_the_same_step(family: str, batch: Batch) -> None:
    states = []
    for saving in (False, True):
        adapter = ScoreAdapter(make(family), seed=1)
        if saving:
            adapter.denoiser.network.enable_gradient_checkpointing()
        batch.train(adapter, 2)
        states.append(adapter.state_tensors())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("family", ["sd", "sd3"])
@pytest.mark.parametrize("how", ["half weights", "autocast"])
def test_low_precision_networks_train_float32_adapters(family: str, how: str, batch: Batch) -> None:
    adapters = []
    for low in (False, True):
        denoiser = make(family)
        if low and how == "half weights":
            denoiser.network.half()
        elif low:
            denoiser = replace(denoiser, autocast=torch.bfloat16)
        before = batch.base(denoiser)
        adapter = ScoreAdapter(denoiser, seed=1)
        assert {parameter.dtype for parameter in adapter.parameters.values()} == {torch.float32}
        assert torch.equal(batch.adapted(adapter)[1], before)
        batch.train(adapter, 1)
        assert torch.equal(batch.base(denoiser), before)
        adapters.append(adapter)
    for name in adapters[0].parameters:
        exact, rounded = (first_gradient(adapter, name) for adapter in adapters)
        error = float((exact - rounded).norm() / exact.norm().clamp_min(1e-12))
        assert error < (0.03 if how == "half weights" else 0.2), name


def test_the_embedded_prior_can_be_adapted(repo_root: Path) -> None:
    folder = repo_root / "src" / "vlm3d_gs" / "mini" / "weights" / "prior" / "unet"
    config = json.loads((folder / "config.json").read_text())
    network = UNet2DConditionModel.from_config(config).requires_grad_(False).eval()
    denoiser = replace(make("multiview", "v_prediction"), network=network)
    join_views(network, 4)
    batch = Batch(config["in_channels"], config["cross_attention_dim"], config["sample_size"])
    before = batch.base(denoiser)
    adapter = ScoreAdapter(denoiser, seed=1, lr=1e-2)
    fresh = clean_and_noise(denoiser.noise_schedule, before, batch.noisy, batch.timesteps)
    assert torch.equal(batch.adapted(adapter)[1], fresh[1])
    batch.train(adapter, 2)
    assert (batch.adapted(adapter)[1] - fresh[1]).abs().max() > 1e-4
    assert torch.equal(batch.base(denoiser), before)

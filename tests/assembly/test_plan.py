"""What a run says about memory before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pipelines
from vlm3d_gs.assembly.memory import count_parameters
from vlm3d_gs.assembly.plan import estimate_run, noises_at_once, plan_memory
from vlm3d_gs.assembly.weights import large_priors
from vlm3d_gs.config.presets import preset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.tiny_sd21(tmp_path_factory.mktemp("models") / "sd21")


def test_the_embedded_models_need_no_plan() -> None:
    assert plan_memory(preset("mini", "a red cube"), {}, CPU) == ("full", [])


def test_the_parts_of_a_pipeline_are_counted_from_its_files(model: Path) -> None:
    parts = estimate_run(preset("sd", "a corgi"), {"prior": model})
    assert set(parts.weights) == {"prior.unet", "prior.vae", "prior.text_encoder"}
    unet_mib = count_parameters(model / "unet") * 2 / 2**20
    assert parts.weights["prior.unet"] == pytest.approx(unet_mib)


@pytest.mark.parametrize(("name", "bytes_a_value"), [("sd", 2), ("mvdream", 2), ("sdxl", 4)])
def test_the_vae_is_counted_in_the_type_in_which_it_will_run(
    model: Path, name: str, bytes_a_value: int
) -> None:
    parts = estimate_run(preset(name, "a corgi"), {"prior": model})
    expected = count_parameters(model / "vae") * bytes_a_value / 2**20
    assert parts.weights["prior.vae"] == pytest.approx(expected)


def test_noises_that_a_critic_compares_are_one_batch(model: Path) -> None:
    config = preset("mvdream", "a corgi")
    assert noises_at_once(config.critic, config.prior) == 1  # no critic
    asked = replace(
        config, critic=replace(config.critic, enabled=True, family="server", mode="best-of-n")
    )
    assert noises_at_once(asked.critic, asked.prior) == asked.critic.n_noises == 3
    assert noises_at_once(replace(asked.critic, mode="pairwise"), asked.prior) == 2
    assert noises_at_once(asked.critic, replace(asked.prior, loss="ism")) == 1
    plain, compared = (estimate_run(c, {"prior": model}) for c in (config, asked))
    assert compared.network == pytest.approx(3 * plain.network)
    assert compared.network_split == plain.network_split


def test_a_lora_and_a_second_prior_are_counted_too(model: Path) -> None:
    config = preset("sd", "a corgi")
    config = replace(
        config,
        prior=replace(config.prior, loss="vsd"),
        detail=replace(config.detail, enabled=True),
    )
    assert set(large_priors(config.priors)) == {"prior", "detail"}
    parts = estimate_run(config, {"prior": model, "detail": model})
    assert {"prior.lora", "detail.unet"} <= set(parts.weights)
    alone = estimate_run(preset("sd", "a corgi"), {"prior": model})
    assert parts.total > alone.total


def test_the_estimate_is_said_and_a_plan_of_the_user_is_kept(model: Path) -> None:
    config = preset("sd", "a corgi")
    plan, said = plan_memory(config, {"prior": model}, CPU)
    assert plan == "full"
    assert "Estimated GPU memory" in said[0]
    frugal, _ = plan_memory(replace(config, memory="sequential"), {"prior": model}, CPU)
    assert frugal == "sequential"

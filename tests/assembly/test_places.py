"""Parts of a run on several devices: where each is, what each must hold, and what is refused."""

from __future__ import annotations

import pytest
import torch

from vlm3d_gs.assembly.device import Places, places
from vlm3d_gs.assembly.memory import CriticWork, estimate, need_mib
from vlm3d_gs.assembly.plan import shares_of_memory
from vlm3d_gs.config import Config, DevicesConfig
from vlm3d_gs.core.errors import ConfigError, DeviceError

CARDS = [torch.device("cuda", number) for number in range(3)]


def test_what_is_auto_is_where_the_run_is() -> None:
    found = places(Config(prompt="a cube", devices=DevicesConfig(critic="cpu")), CARDS[1])
    assert found == Places(CARDS[1], CARDS[1], torch.device("cpu"))
    assert found.all == (CARDS[1], torch.device("cpu"))


def test_a_card_that_is_not_there_is_named_with_its_setting() -> None:
    config = Config(prompt="a cube", devices=DevicesConfig(critic="cuda:77"))
    with pytest.raises(DeviceError, match=r"devices\.critic is 'cuda:77', but torch sees \d CUDA"):
        places(config, torch.device("cpu"))


def test_a_wrong_name_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"^devices\.prior must be auto, cpu, cuda or cuda:N, "):
        DevicesConfig(prior="gpu:1")


def test_several_processes_and_several_devices_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="Set processes=1"):
        Config(prompt="a cube", processes=2, devices=DevicesConfig(critic="cpu"))


def test_each_card_is_asked_for_its_own_parts() -> None:
    parameters = {"prior.unet": 9e8, "prior.vae": 8e7, "prior.text_encoder": 3e8, "critic": 7e9}
    whole = estimate(
        "sd",
        {name: int(count) for name, count in parameters.items()},
        4,
        256,
        gaussians=50_000,
        critic=CriticWork(4000, 1200),
    )
    parts = shares_of_memory(whole, Places(*CARDS))
    assert list(parts) == CARDS
    scene, prior, critic = parts.values()

    assert scene.weights == {}
    assert set(prior.weights) == {"prior.unet", "prior.vae", "prior.text_encoder"}
    assert set(critic.weights) == {"critic"}
    # Nothing is lost: the sum is the whole, but for CUDA on each card and work that takes turns on one.
    summed = sum(need_mib(part, "full") - part.cuda for part in parts.values())
    together = need_mib(whole, "full") - whole.cuda
    assert together <= summed <= together + 1.1 * min(whole.network, whole.critic) + 1.0

    assert (
        list(shares_of_memory(whole, Places(CARDS[0], CARDS[0], torch.device("cpu")))) == CARDS[:1]
    )

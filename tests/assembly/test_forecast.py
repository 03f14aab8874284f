from __future__ import annotations

import torch

from vlm3d_gs.assembly.expectation import CARDS, ROWS, card_named, expectation, expected
from vlm3d_gs.assembly.forecast import describe_plan, needs, planned_memory
from vlm3d_gs.assembly.memory import need_mib
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import PRESETS, preset
from vlm3d_gs.models.catalogue import CATALOGUE
from vlm3d_gs.models.sizes import CRITIC_CONFIGS, MILLIONS

WITH_CRITIC = apply_settings(
    preset("mvdream", "a corgi"), {"critic.enabled": True, "critic.family": "qwen2.5-vl-7b"}
)


def test_sizes_add_up_to_the_catalogue() -> None:
    for name, entry in CATALOGUE.items():
        if not entry.embedded:
            megabytes = 2.0 * sum(MILLIONS[name].values())
            assert abs(megabytes / entry.size_mb - 1.0) < 0.05, name
    critics = {name for name, entry in CATALOGUE.items() if entry.role == "critic"}
    assert set(CRITIC_CONFIGS) == critics - {"mini-critic"}


def test_the_memory_is_near_what_was_measured_on_a_card() -> None:
    """3617 and 23732 MiB on an H100, by distillation and without the reserve of a tenth; benchmarks/README.md."""
    for config, measured in ((preset("mvdream", "a corgi"), 3617), (WITH_CRITIC, 23732)):
        need = need_mib(planned_memory(config), "full")
        assert 0.7 * measured < need < 1.6 * measured


def test_times_scale_with_steps_cards_and_critic() -> None:
    config = preset("mvdream", "a corgi")
    half = apply_settings(config, {"train.steps": config.train.steps // 2})

    def seconds(which: object, card: str | None = "H200") -> float:
        found = expected(which, card, 2)
        assert found is not None
        return found.seconds

    assert seconds(config) == 2 * seconds(half)
    assert seconds(WITH_CRITIC) > seconds(config)
    assert seconds(config, "RTX 3090") > 10 * seconds(config)
    assert seconds(config, None) > 3600
    assert "scaled" in expected(config, "L4", 2).basis
    assert "scaled" not in expected(config, "H200", 2).basis
    assert expected(preset("sdxl", "a corgi"), "H100", 2) is None, "nobody measured it"
    assert {row.card for row in ROWS} <= set(CARDS)
    assert card_named("Tesla T4") == "T4"
    assert card_named("NVIDIA L40S") == "L40S"
    assert card_named("Radeon") is None


def test_every_preset_can_be_planned() -> None:
    for name in PRESETS:
        text = describe_plan(preset(name, "a red cube"))
        assert "Disk for the run" in text
        assert ("memory=sequential" in text) == (not name.startswith("mini")), text
    text = describe_plan(WITH_CRITIC)
    assert "qwen2.5-vl-7b: to download, 16.6 GB (Apache-2.0)" in text
    assert "RTX 4090" in text


def test_the_first_line_of_a_run_and_the_heading_of_its_refusal() -> None:
    cpu = torch.device("cpu")
    line = expectation(preset("mini", "a red cube"), cpu)
    assert line.startswith("a red cube: mini, seed 0, 135 steps on the CPU (")
    assert "about 30 s and 1.5 GB" in line or "about 60 s" in line
    slow = expectation(preset("mvdream", "a corgi"), cpu)
    assert " h. Large models are made for a GPU" in slow
    assert needs(preset("mini", "a red cube")) == ""
    assert "mvdream (2.6 GB) and qwen2.5-vl-7b (16.6 GB) on disk" in needs(WITH_CRITIC)

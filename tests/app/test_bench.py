"""The bench: its sections add up, and the networks' operations are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from vlm3d_gs.app import floors
from vlm3d_gs.app.bench import BenchReport, measure_run
from vlm3d_gs.app.floors import matrix_rate, operation_counter
from vlm3d_gs.cli import app
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views

SMALL = {
    "scene.n_init": 300,
    "densify.enabled": False,
    "device": "cpu",
    "reconstruct.first_chain_steps": 1,
    "reconstruct.n_groups": 1,
    "reconstruct.candidates": 1,
}


def report(steps: int, **settings: object) -> BenchReport:
    values = {**SMALL, "train.steps": steps, **settings}
    return measure_run(apply_settings(preset("mini", "a red cube on top of a blue cone"), values))


@pytest.fixture(scope="module")
def without_critic() -> BenchReport:
    """At the default guidance scale, 1: one branch."""
    return report(4, **{"critic.enabled": False})


def test_sections_add_up_to_the_whole_and_cover_it_with_those_of_the_critic() -> None:
    calls: list[tuple[int, int]] = []
    config = apply_settings(preset("mini", "a red cube"), {**SMALL, "train.steps": 6})
    result = measure_run(config, on_step=lambda done, total: calls.append((done, total)))
    assert sum(result.sections_ms.values()) == pytest.approx(result.whole_ms)
    named = {"render forward", "render backward", "prior denoise", "prior encode", "optimizer"}
    assert named | {"critic forward", "critic backward"} <= set(result.sections_ms)
    assert result.sections_ms["other"] >= 0.0
    assert result.floor_ms["critic forward"] > 0.0
    assert calls[-1] == (12, 12)
    assert result.peak_mib > 100


def test_a_run_without_a_critic_has_no_section_of_one(without_critic: BenchReport) -> None:
    assert not any(name.startswith("critic") for name in without_critic.sections_ms)
    assert "prior denoise" in without_critic.sections_ms


def test_two_branches_cost_twice_the_operations_of_one(without_critic: BenchReport) -> None:
    two = report(4, **{"critic.enabled": False, "prior.guidance_scale": 4.0})
    operations = [r.floor_ms["prior denoise"] * r.peak_gflops for r in (without_critic, two)]
    assert operations[1] == pytest.approx(2.0 * operations[0], rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_counted_on_a_cpu_too(dtype: torch.dtype) -> None:
    """Two products of 2 * 8 * 8 * 4 operations for each of six heads, and five of them backward."""
    query, key, value = (torch.rand(2, 3, 8, 4, dtype=dtype).requires_grad_() for _ in range(3))
    with operation_counter() as counter:
        out = F.scaled_dot_product_attention(query, key, value)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == 6 * 2 * (2 * 8 * 8 * 4)
    assert counter.get_total_flops() == 6 * 7 * (2 * 8 * 8 * 4)


def test_the_rate_of_matrix_products_is_plausible() -> None:
    assert 1e9 < matrix_rate(torch.device("cpu")) < 1e15


def test_the_rate_is_that_of_the_faster_precision_and_a_hopeless_one_is_not_tried_at_full_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {torch.float32: 1.0, torch.bfloat16: 0.5, torch.float64: 4.5}
    tried: list[tuple[int, torch.dtype]] = []

    def spent(side: int, device: torch.device, dtype: torch.dtype) -> float:
        tried.append((side, dtype))
        return seconds[dtype] * side**3

    monkeypatch.setattr(floors, "_product_s", spent)
    assert matrix_rate(torch.device("cpu"), tuple(seconds)) == pytest.approx(2.0 / 0.5)
    full = floors.PEAK_SIDE["cpu"]
    assert [dtype for side, dtype in tried if side == full] == [torch.float32, torch.bfloat16]


def test_other_guidances_can_be_timed() -> None:
    """A guidance in place of the config's: it is called at each step of both passes, and to warm up for each."""
    fractions: list[float] = []

    class Still:
        name = "still"

        def is_due(self, progress: Progress) -> bool:
            return True

        def azimuth_range_deg(self, progress: Progress) -> None:
            return None

        def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
            fractions.append(progress.fraction)
            return GuidanceOutput(torch.ones_like(views.color), {})

        def state_tensors(self) -> dict[str, torch.Tensor]:
            return {}

        def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
            pass

    config = apply_settings(preset("mini", "a red cube"), {**SMALL, "train.steps": 4})
    result = measure_run(config, guidances=lambda objective: [Still()])
    assert fractions == [0.0, 0.25, 0.5, 0.0, 0.25, 0.5, 0.75] * 2
    assert not any(name.startswith(("prior denoise", "critic")) for name in result.sections_ms)
    assert result.floor_ms == {}
    assert result.unwatched_ms == result.whole_ms


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["bench", "a red cube", "--steps", "3", "--no-critic", "--json", str(tmp_path / "b.json")]
        + [x for name, value in SMALL.items() for x in ("--set", f"{name}={value}")],
    )
    assert result.exit_code == 0, result.output
    assert "prior denoise" in result.output
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["preset"] == "mini"
    assert written["steps"] == 3
    assert written["runtimes"] == {"prior": "onnx"}
    assert "prior by onnx" in " ".join(result.output.split())
    assert "commit" in written


def test_a_wrong_preset_is_one_line_and_exit_code_2() -> None:
    result = CliRunner().invoke(app, ["bench", "--preset", "huge"])
    assert result.exit_code == 2
    assert "'huge' is not one of 'mini'" in result.output

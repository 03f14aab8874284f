"""How long the parts of a step take on this machine, and how long the networks' arithmetic must take at least."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from vlm3d_gs.assembly.device import choose_device
from vlm3d_gs.assembly.objective import Objective
from vlm3d_gs.assembly.start import STREAMS, new_run, new_state, read_prompt
from vlm3d_gs.config import Config
from vlm3d_gs.core.profiling import SectionClock, listening
from vlm3d_gs.core.seeding import generators
from vlm3d_gs.optimize.distill import distill_step
from vlm3d_gs.optimize.guidance import Guidance

WARM_UP = 3
"""Steps of a scene of their own before the first that is timed."""
PEAK_SIDE = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices whose product says how fast the machine computes."""
PEAK_REPEATS = 5
NETWORKS = ("prior", "critic")
"""Beginnings of the parts whose operations are counted; those of our own kernels torch does not know."""


@dataclass(frozen=True)
class BenchReport:
    """What a step of a preset costs on one machine."""

    preset: str
    device: str
    steps: int
    """Steps timed."""
    whole_ms: float
    """Mean wall time of a step when its parts are timed, for which the device is waited for after each."""
    unwatched_ms: float
    """Mean wall time of a step as users have it: nothing waits between parts. On a CPU the same as `whole_ms`."""
    parts_ms: dict[str, float]
    """Mean wall time of each part and of `other`, what belongs to none; they add up to `whole_ms`."""
    floor_ms: dict[str, float]
    """Operations of the networks in a part, as a mean over the steps, at the measured rate of matrix products."""
    peak_gflops: float
    """That rate: the better of float32's and bfloat16's."""
    peak_mib: float
    """Most memory in use: of the process on a CPU, of the device on CUDA."""

    @property
    def iterations_per_s(self) -> float:
        """Steps a second."""
        return 1e3 / self.unwatched_ms

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "preset": self.preset,
            "device": self.device,
            "steps": self.steps,
            "iterations_per_s": round(self.iterations_per_s, 3),
            "whole_ms": round(self.whole_ms, 3),
            "unwatched_ms": round(self.unwatched_ms, 3),
            "parts_ms": {name: round(value, 3) for name, value in self.parts_ms.items()},
            "floor_ms": {name: round(value, 3) for name, value in self.floor_ms.items()},
            "peak_gflops": round(self.peak_gflops, 1),
            "peak_mib": round(self.peak_mib, 1),
        }


class OperationClock(SectionClock):
    """Counts the floating-point operations of each part, where `SectionClock` counts seconds."""

    def __init__(self, device: torch.device, counter: FlopCounterMode) -> None:
        super().__init__(device)
        self.counter = counter

    def now(self) -> float:
        """Return the operations done so far."""
        return float(self.counter.get_total_flops())


def measure_run(
    config: Config,
    *,
    tell: Callable[[int, int], None] | None = None,
    floors: bool = True,
    guidances: Callable[[Objective], Sequence[Guidance]] | None = None,
) -> BenchReport:
    """Run a config a few times without writing anything, each time from its first cloud.

    Once by the clock, part by part; on CUDA once more with no wait between parts; once to count operations. All
    schedules are squeezed into `config.train.steps`, so that the mean has each phase of a run in its share.

    Args:
        config: the run; its number of steps should be small.
        tell: called with steps done and steps in all.
        floors: count operations and measure the machine's rate; else `floor_ms` is empty and `peak_gflops` 0.
        guidances: what pulls on the renders, made of what the config builds; None is that itself.

    Raises:
        PromptError: the embedded models do not know a word of the prompt.
        DeviceError: the device is not there.
    """
    prompt = read_prompt(config.prompt, config.priors, config.critic)
    device = choose_device(config.device)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    _, objective, _ = new_run(config, prompt, device)
    pulls = objective.guidances if guidances is None else guidances(objective)
    total, told = config.train.steps * (1 + cuda + floors), count(1)

    def stepped() -> None:
        done = next(told)
        if tell is not None:
            tell(done, total)

    clock = SectionClock(device)
    whole = _steps(config, pulls, clock, stepped)
    free = _steps(config, pulls, clock, stepped, by_parts=False) if cuda else whole
    peak_mib = _peak_mib(device)
    parts = {name: 1e3 * seconds / len(whole) for name, seconds in clock.seconds.items()}
    parts["other"] = 1e3 * fmean(whole) - sum(parts.values())
    floor_ms, rate = {}, 0.0
    if floors:
        rate = matrix_rate(device)
        floor_ms = _floors(config, pulls, device, rate, stepped)
    return BenchReport(
        preset=config.preset,
        device=torch.cuda.get_device_name(device) if cuda else "cpu",
        steps=len(whole),
        whole_ms=1e3 * fmean(whole),
        unwatched_ms=1e3 * fmean(free),
        parts_ms=parts,
        floor_ms=floor_ms,
        peak_gflops=rate / 1e9,
        peak_mib=peak_mib,
    )


def _steps(
    config: Config,
    pulls: Sequence[Guidance],
    clock: SectionClock,
    stepped: Callable[[], None],
    *,
    by_parts: bool = True,
) -> list[float]:
    """Warm up, then do all steps from a new first cloud; return what each took by the clock.

    The clock holds the parts afterwards, unless `by_parts` is off.
    """
    warm = new_state(config, clock.device, generators(config.train.seed, STREAMS))
    for _ in range(min(WARM_UP, config.train.steps)):
        distill_step(warm, config, pulls)
    state = new_state(config, clock.device, generators(config.train.seed, STREAMS))
    taken = []
    for _ in range(config.train.steps):
        with listening(clock) if by_parts else nullcontext():
            began = clock.now()
            distill_step(state, config, pulls)
            taken.append(clock.now() - began)
        stepped()
    return taken


def _floors(
    config: Config,
    pulls: Sequence[Guidance],
    device: torch.device,
    rate: float,
    stepped: Callable[[], None],
) -> dict[str, float]:
    """Return what the networks' operations in each part take at least at a rate, in ms a step."""
    with operation_counter() as counter:
        operations = OperationClock(device, counter)
        steps = len(_steps(config, pulls, operations, stepped))
    return {
        name: 1e3 * number / steps / rate
        for name, number in operations.seconds.items()
        if name.startswith(NETWORKS) and number > 0
    }


def measure_and_show(config: Config) -> BenchReport:
    """Measure a run as `measure_run` does, and print the table of its parts."""
    console = Console()
    with console.status("measuring") as status:
        report = measure_run(
            config, tell=lambda done, total: status.update(f"step {done} of {total}")
        )
    table = Table("part", "ms a step", "share", "floor, ms", "times the floor")
    for name, spent in sorted(report.parts_ms.items(), key=lambda item: -item[1]):
        floor = report.floor_ms.get(name)
        beside = ("", "") if floor is None else (f"{floor:.2f}", f"{spent / floor:.1f}")
        table.add_row(name, f"{spent:.2f}", f"{spent / report.whole_ms:.0%}", *beside)
    console.print(table)
    console.print(
        f"{report.preset} on {report.device}: {report.unwatched_ms:.1f} ms a step, "
        f"{report.iterations_per_s:.2f} it/s over {report.steps} steps, {report.peak_mib:.0f} MiB.\n"
        f"Floor: the networks' operations at {report.peak_gflops:.0f} GFLOP/s, measured here."
    )
    return report


def operation_counter() -> FlopCounterMode:
    """Return torch's counter of floating-point operations, which by itself does not know attention on a CPU.

    It sees operations as they are called from Python: those inside a CUDA graph or a compiled network stay uncounted.
    """

    def forward(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
        return int(sdpa_flop_count(*shapes[:3]))

    def backward(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
        return int(sdpa_backward_flop_count(*shapes[:4]))

    aten = torch.ops.aten
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)


def matrix_rate(
    device: torch.device, dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16)
) -> float:
    """Return the floating-point operations a second of a large square matrix product, the best of a few."""
    side, clock, best = PEAK_SIDE[device.type], SectionClock(device), float("inf")
    for dtype in dtypes:
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        for _ in range(PEAK_REPEATS + 1):
            began = clock.now()
            left @ right
            best = min(best, clock.now() - began)
    return 2.0 * side**3 / best


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

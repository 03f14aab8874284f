"""How long the sections of a step take on this machine, and how long the networks' arithmetic must take at least."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table

from vlm3d_gs.app.floors import OperationClock, matrix_rate, operation_counter
from vlm3d_gs.assembly.device import run_device
from vlm3d_gs.assembly.objective import Objective
from vlm3d_gs.assembly.start import STREAMS, expect_one_process, new_run, new_state, read_prompt
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.core.profiling import SectionClock, listening
from vlm3d_gs.core.seeding import generators
from vlm3d_gs.optimize.guidance import Guidance
from vlm3d_gs.optimize.reconstruct import Reconstruction
from vlm3d_gs.optimize.trainer import train_step

WARM_UP = 3
"""Steps, on a scene of their own, before the first timed one."""
NETWORKS = ("prior", "critic")
"""First words of the sections whose operations are counted; torch does not see those of our own kernels."""


@dataclass(frozen=True)
class BenchReport:
    """What a step of a preset costs on one machine."""

    preset: str
    """Name of the preset."""
    device: str
    """Name of the GPU, or cpu."""
    runtimes: dict[str, str]
    """Name of a prior, or `critic` -> what computes its networks."""
    steps: int
    """Steps timed."""
    whole_ms: float
    """Mean wall time of a step while its sections are timed, which waits for the device after each."""
    unwatched_ms: float
    """Mean wall time of a step as users have it, with no such waits. On a CPU the same as `whole_ms`."""
    sections_ms: dict[str, float]
    """Mean wall time of each section and of `other`, the rest; they add up to `whole_ms`."""
    floor_ms: dict[str, float]
    """Mean time per step that the networks' operations in a section need at the measured rate of matrix products."""
    peak_gflops: float
    """That rate: the better one of float32 and bfloat16."""
    peak_mib: float
    """Peak memory: of the process on a CPU, of the device on CUDA."""

    @property
    def iterations_per_s(self) -> float:
        """Steps per second."""
        return 1e3 / self.unwatched_ms

    def to_dict(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return {
            "preset": self.preset,
            "device": self.device,
            "runtimes": self.runtimes,
            "steps": self.steps,
            "iterations_per_s": round(self.iterations_per_s, 3),
            "whole_ms": round(self.whole_ms, 3),
            "unwatched_ms": round(self.unwatched_ms, 3),
            # Named as in earlier results.
            "parts_ms": {name: round(value, 3) for name, value in self.sections_ms.items()},
            "floor_ms": {name: round(value, 3) for name, value in self.floor_ms.items()},
            "peak_gflops": round(self.peak_gflops, 1),
            "peak_mib": round(self.peak_mib, 1),
        }


def measure_run(
    config: Config,
    *,
    on_step: Callable[[int, int], None] | None = None,
    floors: bool = True,
    guidances: Callable[[Objective], Sequence[Guidance]] | None = None,
) -> BenchReport:
    """Do all steps of a config a few times without writing anything, each time from its first cloud.

    Once with the sections timed; on CUDA once more without waits between sections; once to count operations. All
    schedules are compressed into `config.train.steps`, so that each phase of a run has its share in the mean.

    Args:
        config: the run; its number of steps should be small.
        on_step: called with the steps done and their total number.
        floors: count operations and measure the machine's rate; else `floor_ms` is empty and `peak_gflops` 0.
        guidances: makes the guidances to time from the config's objective, for a run that distils; None takes the
            objective's own, and its reconstruction.

    Raises:
        PromptError: the embedded models do not know a word of the prompt.
        DeviceError: the device is not there.
    """
    prompt = read_prompt(config.prompt, config.priors, config.critic)
    expect_one_process(config)
    device = run_device(config)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)

    _, objective, _ = new_run(config, prompt, device)
    timed, reconstruction, runtimes = (
        objective.guidances,
        objective.reconstruction,
        objective.runtimes,
    )
    if guidances is not None:
        timed, reconstruction = [*guidances(objective)], None
    total, done = config.train.steps * (1 + cuda + floors), count(1)

    def stepped() -> None:
        number = next(done)
        if on_step is not None:
            on_step(number, total)

    clock = SectionClock(device)
    whole = _time_steps(config, timed, reconstruction, clock, stepped)
    free = (
        _time_steps(config, timed, reconstruction, clock, stepped, by_section=False)
        if cuda
        else whole
    )
    peak_mib = _peak_mib(device)

    sections = {name: 1e3 * seconds / len(whole) for name, seconds in clock.seconds.items()}
    sections["other"] = 1e3 * fmean(whole) - sum(sections.values())
    rate = matrix_rate(device) if floors else 0.0
    if floors and guidances is None:
        # Torch's counter sees no operation of exported or replayed graphs, which compute the same.
        by_torch = {f"{name}.runtime": "torch" for name in config.priors}
        eager = {f"{name}.graphs": False for name in (*config.priors, "critic")}
        _, objective, _ = new_run(apply_settings(config, by_torch | eager), prompt, device)
        timed, reconstruction = objective.guidances, objective.reconstruction

    return BenchReport(
        preset=config.preset,
        device=torch.cuda.get_device_name(device) if cuda else "cpu",
        runtimes=runtimes,
        steps=len(whole),
        whole_ms=1e3 * fmean(whole),
        unwatched_ms=1e3 * fmean(free),
        sections_ms=sections,
        floor_ms=_floors(config, timed, reconstruction, device, rate, stepped) if floors else {},
        peak_gflops=rate / 1e9,
        peak_mib=peak_mib,
    )


def measure_and_show(config: Config) -> BenchReport:
    """Measure a run as `measure_run` does, and print a table of its sections."""
    console = Console()
    with console.status("measuring") as status:
        report = measure_run(
            config, on_step=lambda done, total: status.update(f"step {done} of {total}")
        )

    table = Table("section", "ms per step", "share", "floor, ms", "times the floor")
    for name, spent in sorted(report.sections_ms.items(), key=lambda item: -item[1]):
        floor = report.floor_ms.get(name)
        floor_cells = ("", "") if floor is None else (f"{floor:.2f}", f"{spent / floor:.1f}")
        table.add_row(name, f"{spent:.2f}", f"{spent / report.whole_ms:.0%}", *floor_cells)

    console.print(table)
    computed = ", ".join(f"{name} by {runtime}" for name, runtime in report.runtimes.items())
    console.print(
        f"{report.preset} on {report.device}, {computed}: {report.unwatched_ms:.1f} ms per step, "
        f"{report.iterations_per_s:.2f} it/s over {report.steps} steps, {report.peak_mib:.0f} MiB.\n"
        f"Floor: the networks' operations at {report.peak_gflops:.0f} GFLOP/s, measured here."
    )
    return report


def _time_steps(
    config: Config,
    guidances: Sequence[Guidance],
    reconstruction: Reconstruction | None,
    clock: SectionClock,
    stepped: Callable[[], None],
    *,
    by_section: bool = True,
) -> list[float]:
    """Warm up, then do all steps from a new first cloud; return the duration of each by the clock.

    The clock holds the sections afterwards, unless `by_section` is off.
    """
    warm = new_state(config, clock.device, generators(config.train.seed, STREAMS))
    for _ in range(min(WARM_UP, config.train.steps)):
        train_step(warm, config, guidances, reconstruction)

    state = new_state(config, clock.device, generators(config.train.seed, STREAMS))
    durations = []
    for _ in range(config.train.steps):
        with listening(clock) if by_section else nullcontext():
            began = clock.now()
            train_step(state, config, guidances, reconstruction)
            durations.append(clock.now() - began)
        stepped()

    return durations


def _floors(
    config: Config,
    guidances: Sequence[Guidance],
    reconstruction: Reconstruction | None,
    device: torch.device,
    rate: float,
    stepped: Callable[[], None],
) -> dict[str, float]:
    """Return how long the networks' operations in each section take at a rate, in ms per step."""
    with operation_counter() as counter:
        clock = OperationClock(device, counter)
        steps = len(_time_steps(config, guidances, reconstruction, clock, stepped))

    return {
        name: 1e3 * operations / steps / rate
        for name, operations in clock.seconds.items()
        if name.startswith(NETWORKS) and operations > 0
    }


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

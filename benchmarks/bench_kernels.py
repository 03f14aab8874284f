"""Time the project's CUDA kernels against their references in torch, eager, compiled and as a CUDA graph.

    make cuda
    python benchmarks/bench_kernels.py [--out DIR] [--quick] [--compile] [--only NAME]

A kernel is used by default only where a row here shows its gain. All ways of a case take turns in one process: a round
times each once. `device_ms` is the time on the card (many calls between two events), `median_ms` what a caller waits
for (one call and a synchronisation). `bytes_moved` counts each tensor that must be read or written once; `copy_share`
is that rate relative to a large copy on this card. A way that fails is a row with its error; the JSON is written after
each case, so that what was measured survives.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import harness
import torch
from kernel_ways import Case, all_cases

from vlm3d_gs import kernels

COPY_BYTES = 1 << 29


@dataclass(frozen=True)
class Clock:
    """How often each way is timed."""

    repeats: int
    """Single calls, and rounds of `calls` calls."""
    calls: int
    """Calls between two events."""


def copy_rate(clock: Clock) -> float:
    """Return the bytes a millisecond that a large copy on this card reads and writes."""
    source = torch.empty(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    best = min(
        device_ms(lambda: target.copy_(source), 10) for _ in range(max(3, clock.repeats // 5))
    )
    return 2 * COPY_BYTES / best


def device_ms(function: Callable[[], Any], calls: int) -> float:
    """Return milliseconds per call between two events; a caller slower than the card shows here too."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / calls


def as_graph(function: Callable[[], Any]) -> Callable[[], None]:
    """Return a CUDA graph of the function, which must read and write the same tensors at each call.

    The graph holds only addresses; the function holds the tensors, so it must live as long.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()

    def replay(kept: Callable[[], Any] = function) -> None:
        graph.replay()

    return replay


def prepared(case: Case) -> Iterator[tuple[str, Callable[[], Any] | str]]:
    """Yield each way's name and its function, or why it cannot be timed."""
    for name, make in case.ways.items():
        kinds: dict[str, Callable[[Callable[[], Any]], Callable[[], Any]]] = {name: lambda f: f}
        if name in case.graphed:
            kinds[f"{name}, CUDA graph"] = as_graph
        for label, wrap in kinds.items():
            try:
                function = wrap(make())
                for _ in range(3):
                    function()
                torch.cuda.synchronize()
            except Exception as error:  # one failure must not cost the others their numbers
                yield label, f"{type(error).__name__}: {str(error)[:300]}"
            else:
                yield label, function


def time_case(case: Case, clock: Clock, rate: float) -> list[dict[str, Any]]:
    """Return a row for each way of a case."""
    ready = dict(prepared(case))
    able = {name: function for name, function in ready.items() if not isinstance(function, str)}
    device: dict[str, list[float]] = {name: [] for name in able}
    for _ in range(clock.repeats):  # in turn
        for name, function in able.items():
            device[name].append(device_ms(function, clock.calls))

    rows = []
    for name, function in ready.items():
        row = {"op": case.op, **case.settings, "way": name, "bytes_moved": case.bytes_moved}
        if isinstance(function, str):
            rows.append({**row, "error": function})
            print(f"{case.op:14} {case.settings} {name:28} failed: {function}", flush=True)
            continue

        timing = harness.measure(function, warm_up=1, repeats=clock.repeats, limit_s=3.0)
        values = sorted(device[name])
        middle = values[len(values) // 2]
        row |= {
            "device_ms": round(middle, 5),
            "device_best_ms": round(values[0], 5),
            "device_worst_ms": round(values[-1], 5),
            "copy_share": round(case.bytes_moved / middle / rate, 4),
        }

        rows.append(harness.row(row, timing))
        print(
            f"{case.op:14} {case.settings} {name:28} device {1e3 * middle:9.1f} us  waited for"
            f" {1e3 * timing.median_ms:9.1f} us  of copy {row['copy_share']:.3f}",
            flush=True,
        )
    return rows


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = harness.arguments("Time the project's CUDA kernels against their references in torch.")
    parser.add_argument("--quick", action="store_true", help="few repeats")
    parser.add_argument(
        "--compile", action="store_true", help="time torch.compile too (slow to start)"
    )
    parser.add_argument("--only", default="", help="only operators whose name contains this")
    return parser.parse_args()


def main() -> None:
    """Time all cases and write the JSON."""
    options = arguments()
    if not torch.cuda.is_available():
        print("bench_kernels: torch sees no CUDA device here, so nothing was timed.")
        return

    clock = Clock(5, 10) if options.quick else Clock(15, 20)
    rate = copy_rate(clock)
    facts = {
        "op": "copy",
        "gigabytes_a_second": round(rate / 1e6, 1),
        "kernels_built": kernels.available(),
    }
    print(facts, flush=True)

    rows: list[dict[str, Any]] = [facts]
    for op, make in all_cases(options.compile):
        if options.only not in op:
            continue
        try:
            rows += time_case(make(), clock, rate)
        except Exception as error:  # go on with the next case
            rows.append({"op": op, "error": f"{type(error).__name__}: {str(error)[:300]}"})
            print(rows[-1], flush=True)
        path = harness.record("kernels", rows, options.out)
    print(f"written: {path}")


if __name__ == "__main__":
    main()

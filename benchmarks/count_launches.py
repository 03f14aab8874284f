"""How many operations a host launches for a round and for an asset, eager and recorded: counted, on any machine.

    python benchmarks/count_launches.py        # some minutes

Counted are the operations that torch dispatches, without views, which launch nothing: on a card each is a kernel or a
few. The networks have a hundredth of the published width, on which no count depends; MVDream has its depth, the critic
14 layers of 60. A replay counts as one. The renderer is left out: gsplat launches kernels of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_card import config_of
from harness import arguments, record
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vlm3d_gs.assembly.start import STREAMS, new_run, new_state, read_prompt
from vlm3d_gs.config import Config
from vlm3d_gs.core.profiling import SectionClock, listening
from vlm3d_gs.core.recording import Recorder, Run
from vlm3d_gs.core.seeding import generators
from vlm3d_gs.critic.guidance import Critic
from vlm3d_gs.optimize.trainer import train_step
from vlm3d_gs.prior.guidance import DiffusionPrior

LAUNCHES_NOTHING = {"empty", "empty_strided", "lift_fresh", "detach", "_local_scalar_dense"}


class Launches(TorchDispatchMode):
    """Counts operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.paused = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not (self.paused or func.is_view or name in LAUNCHES_NOTHING):
            self.number += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count a block as one launch."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before
            self.number += not before


class CountedGraphs:
    """Replays by running again, counted as one launch; recording itself counts nothing."""

    def __init__(self, launches: Launches) -> None:
        self.launches = launches

    def warm_up(self, run: Run) -> None:
        """Nothing."""

    def capture(self, run: Run) -> tuple[Sequence[Tensor], Callable[[], None]]:
        """Return what to run again."""
        with self.launches.one():
            results = run()
        self.launches.number -= 1

        def replay() -> None:
            with self.launches.one():
                for kept, new in zip(results, run(), strict=True):
                    kept.copy_(new)

        return results, replay


class LaunchClock(SectionClock):
    """A clock of sections whose time is the number of launches."""

    def __init__(self, launches: Launches) -> None:
        super().__init__(torch.device("cpu"))
        self.launches = launches

    def now(self) -> float:
        """Return the launches so far."""
        return float(self.launches.number)


def count_asset(config: Config, *, recorded: bool) -> dict[str, Any]:
    """Return launches by section for all steps, without the renderer's."""
    prompt, device = read_prompt(config.prompt, config.priors, config.critic), torch.device("cpu")
    _, objective, _ = new_run(config, prompt, device)
    launches = Launches()
    if recorded:
        for guidance in objective.guidances:
            inner = getattr(guidance, "prior", guidance)
            if isinstance(inner, DiffusionPrior):
                inner.denoiser = replace(inner.denoiser, recorder=Recorder(CountedGraphs(launches)))
                inner.conditioning.denoiser = inner.denoiser
            if isinstance(guidance, Critic):
                guidance.model.recorder = Recorder(CountedGraphs(launches))

    state = new_state(config, device, generators(config.train.seed, STREAMS))
    clock = LaunchClock(launches)
    marks: list[float] = []
    with launches, listening(clock), clock.measure("other"):
        for _ in range(config.train.steps):
            train_step(state, config, objective.guidances, objective.reconstruction)
            if state.pool.is_round_over and len(marks) < state.pool.rounds:
                drawn = (n for name, n in clock.seconds.items() if name.startswith("render"))
                marks.append(launches.number - sum(drawn))

    sections = {name: round(number) for name, number in clock.seconds.items()}
    own = {name: number for name, number in sections.items() if not name.startswith("render")}
    return {
        "recorded": recorded,
        "steps": config.train.steps,
        "rounds": state.pool.rounds,
        "third_round": round(marks[2] - marks[1]),
        "launches": sum(own.values()),
        "by_section": own,
    }


def main() -> None:
    """Count and write the result."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=None, help="default: the preset's own")
    parser.add_argument("--cases", default="mvdream;mvdream + 7B", help="separated by semicolons")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for case in options.cases.split(";"):
            config = config_of(case, Path(temporary), "tiny", "cpu", options.steps)
            for recorded in (False, True):
                rows.append({"case": case, **count_asset(config, recorded=recorded)})
                print(rows[-1], flush=True)
    print(record("launches", rows, options.out))


if __name__ == "__main__":
    main()

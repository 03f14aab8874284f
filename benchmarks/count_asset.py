"""What the networks of a whole asset compute at their real sizes, ours and those of others: counted, not timed.

    python benchmarks/count_asset.py        # any machine, some minutes

Each procedure (procedures.py) runs from its first step to its last, by the loop of `generate` (`optimize.trainer`)
with its priors, critic and watch, but with stand-ins for the networks (stand_ins.py) and few Gaussians, on which no
network depends. The released VLM3D asks the same at each step of a stage, so a thousandth of its steps is run and
multiplied. MicroDreamer's loop is not ours: its questions are arithmetic on its published settings.

Counted are products and convolutions of denoiser, autoencoder and critic, a multiplication with its addition as two
operations, attention without regard to masks. Left out: text encoders, which run once, and everything that is no
network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from harness import arguments, record
from procedures import PROCEDURES, PROMPT, SEVEN, Procedure, microdreamer_rounds
from random_models import random_critic, random_prior
from released import ReleasedCritic
from stand_ins import (
    BACKWARD,
    DECODES,
    ENCODES,
    EVALUATIONS,
    LOOKS,
    CriticCosts,
    PriorCosts,
    Tally,
    stand_in_for_critic,
    stand_in_for_prior,
    stand_in_for_released_critic,
)
from torch import Tensor

from vlm3d_gs.assembly.objective import Objective, build_watch
from vlm3d_gs.assembly.start import new_run, read_prompt
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.critic.guidance import Critic
from vlm3d_gs.critic.questions.templates import joint_question
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.critic.watch import Scorer
from vlm3d_gs.optimize.guidance import Guidance
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.optimize.trainer import train
from vlm3d_gs.pipeline import choose_scene
from vlm3d_gs.prior.guidance import DiffusionPrior
from vlm3d_gs.runs.log import RunLog

CRITIC_PX = 252
"""Side of the pictures that the released critic sees, 81 tokens each."""
LESS = 1000
"""A procedure with the released critic is run for one step of so many."""
WATCH = " of the watch"
"""Added to the kinds in a `Tally` that the watch asks for."""
# What no network depends on.
FEW = {"scene.n_init": 200, "scene.max_gaussians": 400, "device": "cpu"}
VLM3D, DISTILLED, DISTILLED_ALONE = (
    "VLM3D as released",
    "mvdream + 7B by distillation",
    "mvdream by distillation",
)


@dataclass(frozen=True)
class Case:
    """One row."""

    name: str
    stages: tuple[str, ...] = ()
    """Names in `PROCEDURES`; none is MicroDreamer."""
    measured: str = "no"
    """Seconds that were measured of something near it, and of what; docs/log/large-models.md has more."""


CASES = (
    Case("mvdream", ("mvdream",), "4.1 s on an H200 (sketch, 896 evaluations)"),
    Case(
        "mvdream + 7B", ("mvdream + 7B",), "8.7 s on an H200 (sketch, 1760 evaluations, 58 looks)"
    ),
    Case(DISTILLED_ALONE, (DISTILLED_ALONE,), "137 s on an H100 (earlier, extrapolated)"),
    Case(DISTILLED, (DISTILLED,), "203 s on an H100 (earlier, extrapolated)"),
    Case(VLM3D, ("VLM3D, 8 views of 64 px", "VLM3D, 4 views of 256 px")),
    Case("MicroDreamer"),
    Case("DreamGaussian, SD 2.1", ("DreamGaussian, SD 2.1",)),
    Case("DreamGaussian, MVDream", ("DreamGaussian, MVDream",)),
)


class Networks:
    """Tiny networks for the stand-ins to replace, and the costs of the real ones; each made when first needed."""

    def __init__(self, folder: Path, size: str = "full", critic: str = SEVEN) -> None:
        """Keep what to make.

        Args:
            folder: for the weights of tiny networks.
            size: of the priors that are counted.
            critic: whose operations are counted.
        """
        self.prior_costs = cache(lambda family: PriorCosts(family, size))
        self.critic_costs = cache(
            lambda fast: CriticCosts(critic, self.critic_folder(), fast_modules=fast)
        )
        self.prior_folder = cache(lambda family: random_prior(family, folder / family, "tiny"))
        self.critic_folder = cache(lambda: random_critic("tiny-qwen", folder / "critic"))


def count_procedure(procedure: Procedure, networks: Networks, folder: Path) -> Tally:
    """Run a procedure with stand-ins and return what it asked.

    Args:
        procedure: what to run.
        networks: which are replaced.
        folder: of the run, new.
    """
    whole = procedure.config()
    steps, factor = whole.train.steps, 1.0
    if procedure.released:
        steps, factor = round(procedure.share * steps / LESS), LESS
    config = apply_settings(whole, FEW | model_settings(whole, networks) | {"train.steps": steps})

    tally = Tally()
    prompt = read_prompt(config.prompt, config.priors, config.critic)
    state, objective, _ = new_run(config, prompt, torch.device("cpu"))
    replace_networks(objective, networks, config.prior.family, tally)

    guidances: list[Guidance] = [*objective.guidances]
    if procedure.released:
        until = round(procedure.released * steps)
        guidances.append(released_critic(networks, until, tally))
    run(config, state, objective, guidances, tally, folder)

    # The program counts too, for summary.json; the released critic is not its own.
    looks = 0 if procedure.released else number(tally.asked, LOOKS)
    own = (state.counts.get("network evaluations", 0), state.counts.get("critic looks", 0))
    assert own == (number(tally.asked, EVALUATIONS), looks)
    return tally.scaled(factor)


def model_settings(config: Config, networks: Networks) -> dict[str, Any]:
    """Return settings that let a config load tiny networks."""
    values: dict[str, Any] = {"prior.model": str(networks.prior_folder(config.prior.family))}
    if config.critic.enabled:
        values["critic.model"] = str(networks.critic_folder())
    return values


def replace_networks(objective: Objective, networks: Networks, family: str, tally: Tally) -> None:
    """Put stand-ins into the priors and the critic of a run."""
    for guidance in objective.guidances:
        inner = getattr(guidance, "prior", guidance)  # inside a choice among noises
        if isinstance(inner, DiffusionPrior):
            stand_in_for_prior(inner, networks.prior_costs(family), tally)
        if isinstance(guidance, Critic):
            stand_in_for_critic(guidance.model, networks.critic_costs(True), tally)


def released_critic(networks: Networks, until: int, tally: Tally) -> ReleasedCritic:
    """Return the released VLM3D's critic with a stand-in."""
    model = YesNoModel(networks.critic_folder(), torch.device("cpu"), fast_modules=False)
    stand_in_for_released_critic(model, networks.critic_costs(False), tally)
    return ReleasedCritic(model, joint_question(PROMPT), size_px=CRITIC_PX, until=until)


def run(
    config: Config,
    state: TrainState,
    objective: Objective,
    guidances: Sequence[Guidance],
    tally: Tally,
    folder: Path,
) -> None:
    """Do all steps and the last reading, as `pipeline.generate` does; looks of the watch get a name of their own."""
    watch = build_watch(objective, config)
    if watch is not None:
        watch.own = asked_by_watch(watch.own, tally)
        watch.judge = asked_by_watch(watch.judge, tally)

    folder.mkdir(parents=True, exist_ok=True)
    with RunLog(folder, config, quiet=True) as log:
        train(state, config, guidances, log, reconstruction=objective.reconstruction, watch=watch)
        choose_scene(state, watch, log)


def asked_by_watch(scorer: Scorer, tally: Tally) -> Scorer:
    """Return a scorer whose looks are entered as the watch's."""

    def score(images: Tensor, names: Sequence[str]) -> float:
        with tally.asked_by(WATCH):
            return scorer(images, names)

    return score


def count_microdreamer(costs: PriorCosts, n_views: int = 4, size_px: int = 256) -> Tally:
    """Return what MicroDreamer asks MVDream's networks; its own ImageDream denoises a fifth picture beside the four."""
    tally = Tally()
    cells = size_px // 8
    for up, down in microdreamer_rounds():
        batch = 2 * n_views
        once = costs.denoise(batch, cells, n_views)
        tally.add(EVALUATIONS, (up + down) * batch, (up + down) * once)
        tally.add(ENCODES, n_views, costs.encode(n_views, size_px)[0])
        tally.add(DECODES, n_views, costs.decode(n_views, cells)[0])
    return tally


def count_case(case: Case, networks: Networks, folder: Path) -> Tally:
    """Return what all stages of a case ask."""
    if not case.stages:
        return count_microdreamer(networks.prior_costs("mvdream"))

    total = Tally()
    for stage, name in enumerate(case.stages):
        (procedure,) = (procedure for procedure in PROCEDURES if procedure.name == name)
        total = total.plus(count_procedure(procedure, networks, folder / f"{case.name} {stage}"))
    return total


def number(values: Mapping[str, int], kind: str) -> int:
    """Return the sum over a kind of question, whoever asked it."""
    return values.get(kind, 0) + values.get(kind + WATCH, 0)


def as_row(case: Case, tally: Tally, tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """Return the row of a case.

    Args:
        case: which.
        tally: its questions.
        tallies: by name of the case, those that it is compared with.
    """
    asked = tally.asked
    distilled = DISTILLED if number(asked, LOOKS) else DISTILLED_ALONE
    operations = sum(tally.operations.values())

    def share(name: str) -> float | str:
        if name not in tallies:
            return "not counted"
        return float(f"{operations / sum(tallies[name].operations.values()):.3g}")

    return {
        "case": case.name,
        "evaluations": number(asked, EVALUATIONS),
        "encodes": number(asked, ENCODES),
        "encodes_with_gradient": number(asked, ENCODES + BACKWARD),
        "decodes": number(asked, DECODES),
        "looks": number(asked, LOOKS),
        "looks_with_gradient": number(asked, LOOKS + BACKWARD),
        "tflop": round(operations / 1e12, 1),
        "of_vlm3d": share(VLM3D),
        "of_distilled": share(distilled),
        "measured": case.measured,
        "tflop_by_kind": {kind: round(value / 1e12, 1) for kind, value in tally.operations.items()},
        "asked_by_kind": dict(asked),
    }


def main() -> None:
    """Count the cases and write the result."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", default="", help="names separated by semicolons; default: all")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    chosen = [name for name in options.cases.split(";") if name]
    if unknown := set(chosen) - {case.name for case in CASES}:
        parser.error(
            f"no such cases: {sorted(unknown)}. There are: {'; '.join(c.name for c in CASES)}"
        )
    cases = [case for case in CASES if not chosen or case.name in chosen]

    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        networks = Networks(folder)
        for case in cases:
            tallies[case.name] = count_case(case, networks, folder / "runs")
            print(as_row(case, tallies[case.name], tallies), flush=True)

    rows = [as_row(case, tallies[case.name], tallies) for case in cases]
    print(record("an_asset", rows, options.out))


if __name__ == "__main__":
    main()

"""Settings of reconstruction: whole pictures are drawn, and many cheap steps fit the scene to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vlm3d_gs.config.bounds import Range, check_ranges
from vlm3d_gs.config.schedules import Schedule, constant, linear

Solver = Literal["ddim", "dpm++"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructConfig:
    """Rounds of targets and fits, before the rest of the run distils; after MicroDreamer (Chen et al. 2024)."""

    until: Annotated[float, Range(0.0, 1.0)] = 0.89
    """Fraction of the run after which it continues by distillation; 1 never does."""
    noise_level: Annotated[Schedule, Range(1e-3, 1.0)] = linear(1.0, 0.1, 0.0, 0.82)
    """Where a denoising chain begins, fraction of the training timesteps; 1 is pure noise, which owes nothing to the
    scene so far."""
    chain_steps: Annotated[Schedule, Range(1, 1000)] = constant(3)
    """Network evaluations of a chain, rounded."""
    first_chain_steps: Annotated[int, Range(1, 1000)] = 3
    """Network evaluations of the first round's chains, whose pictures decide the layout."""
    solver: Solver = "ddim"
    """Solver of a chain: `ddim` is of first order, `dpm++` of second order from its second step on."""
    n_groups: Annotated[Schedule, Range(1, 64)] = constant(2)
    """View groups of a round, evenly turned against each other; rounded."""
    candidates: Annotated[Schedule, Range(1, 64)] = Schedule("piecewise", ((0.0, 3.0), (0.27, 1.0)))
    """Chains drawn for the first view group of a round, of which the critic keeps the best; rounded. Without a critic
    it is 1."""
    fit_steps: Annotated[Schedule, Range(1, 10_000)] = constant(10)
    """Optimisation steps of a round, rounded."""
    fit_groups: Annotated[Schedule, Range(1, 64)] = constant(2)
    """View groups of a target that one fit renders, by turns; rounded."""
    pool: Annotated[int, Range(1, 1000)] = 6
    """Rounds whose targets are kept: every other step fits the newest, the others any of these."""
    together: Annotated[int, Range(1, 64)] = 4
    """Objects of a scene whose pictures are drawn in one batch of the prior; on a GPU each takes memory."""
    fits_between: Annotated[int, Range(0, 100)] = 1
    """Fits to kept targets after each step of distillation that follows the rounds: they hold what it loosens."""
    squared: Annotated[float, Range(0.0, 1e6)] = 1.0
    """Weight of the squared difference of pixels."""
    absolute: Annotated[float, Range(0.0, 1e6)] = 0.1
    """Weight of the absolute difference of pixels."""
    border_background: bool = True
    """Fit each target in front of the median colour of its own border, since a picture drawn from noise has whatever
    background it likes; off: in front of the colour that the scene was rendered on."""
    critic_guidance: Annotated[Schedule, Range(0.0, 10.0)] = constant(0.0)
    """Length of the step that a chain takes along the critic's reward at each prediction, as a fraction of the
    predicted latents' own length."""
    critic_gradient: bool = True
    """Whether the critic's gradient also pulls on fits: on those to a round's newest pictures at which `critic.every`
    asks it, and on the others by `critic.reuse`."""

    def __post_init__(self) -> None:
        check_ranges(self, "reconstruct")

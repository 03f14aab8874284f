"""The program behind `vlm3d-gs setup gpu`: says what it found, asks, and sets gsplat up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlm3d_gs.core.errors import SetupError
from vlm3d_gs.setup.bar import BuildBar
from vlm3d_gs.setup.gpu import carry_out, is_ready, takes_installed
from vlm3d_gs.setup.plan import describe, make_plan, obstacles

READY = (
    "gsplat is set up: runs of large models use the card by themselves, others with --device cuda."
)
STOPPED = "Stopped. What was half-built is gone; what was fetched is kept for the next time."


def run_setup(
    architectures: Sequence[str], *, ask: Callable[[str], bool] | None, dry_run: bool
) -> None:
    """Set gsplat up for these architectures, or for the cards of this machine.

    Args:
        architectures: such as 9.0; empty for those of this machine's cards.
        ask: returns whether to go on; None goes on.
        dry_run: only say what would be done.

    Raises:
        ConfigError: an architecture that does not exist.
        MissingDependencyError: there is no torch.
        SetupError: something is missing or failed.
    """
    plan = make_plan(architectures)
    bar = BuildBar()
    if is_ready(plan) or takes_installed(plan, bar.tell):
        bar.tell(READY)
        return

    missing = obstacles(plan)
    if missing:
        raise SetupError("\n  - ".join(["gsplat cannot be set up here yet:", *missing]))
    for line in describe(plan):
        bar.tell(line)
    if dry_run:
        bar.tell("Nothing was done (--dry-run).")
        return
    if ask is not None and not ask("Go on?"):
        raise SetupError("Nothing was done.")

    try:
        carry_out(plan, bar.tell, bar.show)
    except KeyboardInterrupt:
        bar.tell(STOPPED)
        raise
    finally:
        bar.close()
    bar.tell(READY)

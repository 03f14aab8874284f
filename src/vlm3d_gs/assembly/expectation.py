"""How long a run will take, said before it starts: from rows that were measured, scaled to this machine.

Every number says where it comes from. What nobody measured has no estimate.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from vlm3d_gs.assembly.device import has_small_models_only
from vlm3d_gs.assembly.weights import has_large_critic, large_priors
from vlm3d_gs.config import Config

START_S, FILMS_S = 5.0, 7.0
"""Of a run with the embedded models on two cores: loading, and turntable and sheet; benchmarks/README.md, command."""
MINI_STEP_S = {"reconstruct": 0.125, "distill": 0.09}
"""A step of theirs there."""
MINI_MIB = 1500
"""Memory of such a run, rounded up."""
CPU_TFLOPS_A_CORE = 0.08
"""Rate of float32 matrix products on a core with AVX-512, 10^12 operations a second, rounded from ours."""
BUSY = 0.5
"""Fraction of that rate that whole networks reach."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured kind of run: models of the real sizes with random weights."""

    family: str
    """Of the prior."""
    loop: str
    """`reconstruct` or `distill`."""
    step_s: float
    """Seconds a step, without a critic."""
    critic_s: float
    """Seconds a step that a 7B critic adds."""
    tflop: float
    """10^12 operations a step, without a critic."""
    critic_tflop: float
    """The same that a 7B critic adds."""
    card: str
    """Where it was measured."""
    note: str
    """What is not as in a whole run."""

    @property
    def basis(self) -> str:
        """Where the row comes from."""
        return f"measured on an {self.card} with random weights, {self.note}"


ROWS = (
    Row(
        "mvdream",
        "reconstruct",
        0.0161,
        0.0100,
        1.141,
        2.460,
        "H200",
        "a sketch of the loop, extrapolated",
    ),
    Row("mvdream", "distill", 0.0913, 0.0439, 3.823, 4.951, "H100", "24 steps"),
    Row("sd", "distill", 0.2906, 0.0439, 15.5, 4.951, "H100", "24 steps"),
)
"""Seconds from benchmarks/README.md, `large full` and `an asset`; operations counted there, of `sd` for 4 pictures."""
SAME_NETWORK = {"sd15": "sd"}
"""Families that have the same sizes as one that was measured."""

CARDS = {
    "H200": (989.0, 141),
    "H100": (989.0, 80),
    "A100": (312.0, 80),
    "L40S": (362.0, 48),
    "RTX 5090": (210.0, 32),
    "RTX 4090": (165.0, 24),
    "RTX 3090": (71.0, 24),
    "L4": (121.0, 24),
    "RTX 4080": (97.0, 16),
    "T4": (65.0, 16),
    "RTX 4070": (58.0, 12),
    "RTX 3060": (51.0, 12),
}
"""Card -> rate of dense half-precision products as its maker states it, 10^12 operations a second, and memory, GB."""
CRITIC_SHARE = {
    "qwen2.5-vl-7b": 1.0,
    "qwen2.5-vl-3b": 0.5,
    "qwen2-vl-2b": 0.4,
    "qwen3-vl-2b": 0.3,
    "qwen3-vl-4b": 0.55,
}
"""A critic's operations over those of the 7B one, roughly, by parameters; the vision towers are nearly equal."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """How long a run will take."""

    seconds: float
    """Without loading the models."""
    basis: str
    """Where the number comes from."""


def row_of(config: Config) -> Row | None:
    """Return the measured row that a run with large models is like, or None."""
    family = SAME_NETWORK.get(config.prior.family, config.prior.family)
    found = (row for row in ROWS if (row.family, row.loop) == (family, config.train.loop))
    return next(found, None)


def card_named(name: str) -> str | None:
    """Return the entry of `CARDS` that a driver's name of a card means, or None.

    Example:
        >>> card_named("NVIDIA GeForce RTX 4090"), card_named("NVIDIA H100 80GB HBM3")
        ('RTX 4090', 'H100')
    """
    words = f" {name.replace('-', ' ')} "
    return next((card for card in CARDS if f" {card} " in words), None)


def expected(config: Config, card: str | None, cores: int) -> Expectation | None:
    """Return how long a run will take on a card, or on the CPU; None if nothing like it was measured.

    Args:
        config: the run.
        card: a key of `CARDS`; None is the CPU.
        cores: of the CPU.
    """
    steps = config.train.steps
    if has_small_models_only(config):
        films = FILMS_S if {"mp4", "gif", "webp"} & {*config.export.formats} else 0.0
        step_s = MINI_STEP_S[config.train.loop] * (1.0 if config.critic.enabled else 0.75)
        seconds = START_S + steps * step_s + films
        # Little of it uses more than two cores.
        return Expectation(seconds * (2.0 if cores == 1 else 1.0), "measured on two cores")

    row = row_of(config)
    if row is None:
        return None
    share = CRITIC_SHARE.get(config.critic.family, 1.0) if has_large_critic(config.critic) else 0.0
    if card is None:
        rate = 1e12 * CPU_TFLOPS_A_CORE * BUSY * cores
        tflop = steps * (row.tflop + share * row.critic_tflop)
        return Expectation(1e12 * tflop / rate, "operations counted, by the rate of a CPU's cores")

    measured_s = steps * (row.step_s + share * row.critic_s)
    slower = CARDS[row.card][0] / CARDS[card][0]
    scaled = "" if slower == 1.0 else f", scaled by the cards' rates to {card}"
    return Expectation(measured_s * slower, f"{row.basis}{scaled}")


def expectation(config: Config, device: torch.device) -> str:
    """Return the line that a run begins with: what, how, where, and roughly how long and how much memory."""
    cores = usable_cores()
    where, card = f"the CPU ({cores} core{'s' if cores > 1 else ''})", None
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
        card = card_named(where)

    found = None if device.type == "cuda" and card is None else expected(config, card, cores)
    what = f"{config.prompt}: {config.preset}, seed {config.train.seed}, {config.train.steps} steps"
    line = f"{what} on {where}"
    if found is not None:
        line += f", about {duration(found.seconds)}"
    if has_small_models_only(config):
        line += f" and {MINI_MIB / 1000:.1f} GB"
    if device.type == "cpu" and large_priors(config.priors):
        line += ". Large models are made for a GPU: `vlm3d-gs plan` says what this would take there"
    return f"{line}."


def duration(seconds: float) -> str:
    """Return a time as a person says it, to one or two digits.

    Example:
        >>> duration(28.4), duration(200.0), duration(9_000.0)
        ('30 s', '3 min', '2.5 h')
    """
    if seconds < 10:
        return f"{max(round(seconds), 1)} s"
    if seconds < 90:
        return f"{round(seconds / 5) * 5} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

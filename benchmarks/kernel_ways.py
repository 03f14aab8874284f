"""What `bench_kernels.py` times: for each operator and size, the ways of doing it, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs import kernels
from vlm3d_gs.kernels.mcmc import perturb_means_reference, relocate_reference
from vlm3d_gs.kernels.splat_adam import (
    AdamRule,
    ParameterState,
    ScreenStats,
    adam_step_reference,
)

GAUSSIANS = (10_000, 100_000, 1_000_000)
VIEWS = 4
BETAS, EPS = (0.9, 0.99), 1e-15

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One operator at one size."""

    op: str
    settings: dict[str, Any]
    bytes_moved: int
    """Bytes that must be read or written once."""
    ways: dict[str, Callable[[], Call]]
    """Name -> builder of the function to time."""
    graphed: tuple[str, ...]
    """Ways that are also timed as a CUDA graph."""


def all_cases(compiled: bool) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Yield each operator's name and a builder of its case."""
    for n in GAUSSIANS:
        yield "perturb_means", lambda n=n: perturb_means(n, compiled)
        yield "relocate", lambda n=n: relocate(n, compiled)
    for sh_degree in (0, 3):
        for n in GAUSSIANS:
            yield "splat_adam", lambda n=n, degree=sh_degree: splat_adam(n, degree, compiled)


def splat_adam(n: int, sh_degree: int, compiled: bool) -> Case:
    """Adam over a scene of n Gaussians, and the densification statistics of `VIEWS` views."""
    generator = torch.Generator("cuda").manual_seed(0)
    rest = (sh_degree + 1) ** 2 - 1
    shapes = [(n, 3), (n, 3), (n, 4), (n,), (n, 1, 3), *([(n, rest, 3)] if rest else [])]

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator)

    # Tensors, gradients and moments of a scene in the middle of a run.
    leaves = [draw(*shape).requires_grad_() for shape in shapes]
    for leaf in leaves:
        leaf.grad = draw(*leaf.shape)
    states = [
        ParameterState(leaf.detach(), leaf.grad, 0.1 * leaf.grad, 0.1 * leaf.grad.square(), 1e-3, 5)
        for leaf in leaves
        if leaf.grad is not None
    ]

    # About half of the Gaussians are seen by each view.
    radii = (4.0 * draw(VIEWS, n)).clamp_min(0.0)
    screen = ScreenStats(
        draw(VIEWS, n, 2), radii, torch.zeros_like(radii[0]), torch.zeros_like(radii[0])
    )
    rule = AdamRule(*BETAS, EPS)

    def statistics() -> None:
        seen = screen.radii > 0
        screen.total.add_((screen.gradient.norm(dim=-1) * seen).sum(0))
        screen.count.add_(seen.sum(0))

    def by_torch(**kind: Any) -> Call:
        groups = [{"params": [leaf], "lr": 1e-3} for leaf in leaves]
        adam = torch.optim.Adam(groups, betas=BETAS, eps=EPS, **kind)

        def step() -> None:
            statistics()
            adam.step()

        return step

    def by_kernel(visible_only: bool = False) -> Call:
        kernels.require()
        kernel_rule = AdamRule(*BETAS, EPS, visible_only)
        return lambda: kernels.adam_step(states, kernel_rule, screen)

    def by_reference() -> Call:
        return torch.no_grad()(lambda: adam_step_reference(states, rule, screen))

    ways: dict[str, Callable[[], Call]] = {
        "kernel": by_kernel,
        "kernel, visible only": lambda: by_kernel(visible_only=True),
        "torch fused Adam": lambda: by_torch(fused=True, capturable=True),
        "torch foreach Adam": lambda: by_torch(foreach=True),
        "reference": by_reference,
    }
    if compiled:
        ways["reference compiled"] = lambda: torch.compile(by_reference(), dynamic=False)

    # a value: 4 read, 3 written; a view of a Gaussian: 3 read; a Gaussian's statistics: 2 read, 2 written
    values = sum(leaf.numel() for leaf in leaves)
    return Case(
        "splat_adam",
        {"gaussians": n, "sh_degree": sh_degree, "views": VIEWS},
        28 * values + VIEWS * n * 12 + 16 * n,
        ways,
        ("kernel", "torch fused Adam", "reference", "reference compiled"),
    )


def perturb_means(n: int, compiled: bool) -> Case:
    """The noise of densification by sampling, on n Gaussians."""
    tensors, _ = random_scene(n)
    amounts = {"noise_scale": 1.0, "min_opacity": 0.005}

    def by_kernel() -> Call:
        kernels.require()
        return lambda: kernels.perturb_means(*tensors, **amounts)

    def by_reference() -> Call:
        return lambda: perturb_means_reference(*tensors, **amounts)

    def with_transfer(move: Callable[..., None]) -> Call:
        def step() -> None:
            noise = torch.randn(n, 3).to("cuda", non_blocking=True)
            move(*tensors[:4], noise, **amounts)

        return step

    ways: dict[str, Callable[[], Call]] = {"kernel": by_kernel, "reference": by_reference}
    if compiled:
        ways["reference compiled"] = lambda: torch.compile(by_reference(), dynamic=False)
    graphed = tuple(ways)
    ways["kernel, noise drawn and sent"] = lambda: with_transfer(kernels.perturb_means)
    ways["reference, noise drawn and sent"] = lambda: with_transfer(perturb_means_reference)
    # 14 values read, 3 written
    return Case("perturb_means", {"gaussians": n}, 4 * 17 * n, ways, graphed)


def relocate(n: int, compiled: bool) -> Case:
    """Opacities and scales of n Gaussians after a round of densification by sampling."""
    (_, log_scales, _, logits, _), copies = random_scene(n)

    def by_kernel() -> Call:
        kernels.require()
        return lambda: kernels.relocate(logits, log_scales, copies)

    def by_reference() -> Call:
        return lambda: relocate_reference(logits, log_scales, copies)

    ways: dict[str, Callable[[], Call]] = {"kernel": by_kernel, "reference": by_reference}
    if compiled:
        ways["reference compiled"] = lambda: torch.compile(by_reference(), dynamic=False)
    # 5 values read, 4 written
    return Case("relocate", {"gaussians": n}, 4 * 9 * n, ways, tuple(ways))


def random_scene(n: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return means, log scales, quaternions, opacity logits and noise, and how many Gaussians share each place."""
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = ((n, 3), (n, 3), (n, 4), (n,), (n, 3))
    tensors = tuple(torch.randn(*shape, device="cuda", generator=generator) for shape in shapes)
    copies = torch.randint(1, 5, (n,), device="cuda", generator=generator)
    return tensors, copies.int()

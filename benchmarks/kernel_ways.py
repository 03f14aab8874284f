"""What `bench_kernels.py` times: for each operator and size, the ways of doing it, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs import kernels
from vlm3d_gs.critic.qwen import preprocess
from vlm3d_gs.kernels.critic_patches import twin as patches_twin
from vlm3d_gs.kernels.distillation import Guided, Levels, noised_twin, target_twin
from vlm3d_gs.kernels.mcmc import perturb_twin, relocated_twin
from vlm3d_gs.kernels.splat_adam import AdamRule, Moved, Screen, twin
from vlm3d_gs.prior import distillation, noise

GAUSSIANS = (10_000, 100_000, 1_000_000)
VIEWS = 4
BETAS, EPS = (0.9, 0.99), 1e-15
LATENTS = ((4, 4, 32, 32), (8, 4, 64, 64))
GUIDED = Guided("epsilon", 50.0, 0.5, 4)

PICTURES = ((256, 252), (512, 504))
"""Side of the renders, and of what the critic sees."""

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One operator at one size."""

    op: str
    settings: dict[str, Any]
    bytes_moved: int
    """What must be read and written once."""
    ways: dict[str, Callable[[], Call]]
    """Name -> what makes the function that is timed."""
    graphed: tuple[str, ...]
    """Ways that are also timed as a CUDA graph."""


def all_cases(compiled: bool) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Yield each operator's name and what makes the case."""
    for shape in LATENTS:
        yield "reconstruction", lambda shape=shape: reconstruction(shape, compiled)
    for sides in PICTURES:
        yield "critic_patches", lambda sides=sides: patches(sides, compiled)
    for n in GAUSSIANS:
        yield "perturb_means", lambda n=n: perturb_means(n, compiled)
        yield "relocated", lambda n=n: relocated(n, compiled)
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

    leaves = [draw(*shape).requires_grad_() for shape in shapes]
    for leaf in leaves:
        leaf.grad = draw(*leaf.shape)
    moved = [
        Moved(leaf.detach(), leaf.grad, 0.1 * leaf.grad, 0.1 * leaf.grad.square(), 1e-3, 5)
        for leaf in leaves
        if leaf.grad is not None
    ]
    radii = (4.0 * draw(VIEWS, n)).clamp_min(0.0)
    screen = Screen(
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

    def by_kernel(only_seen: bool = False) -> Call:
        kernels.require()
        own = AdamRule(*BETAS, EPS, only_seen)
        return lambda: kernels.adam_step(moved, own, screen)

    def by_twin() -> Call:
        return torch.no_grad()(lambda: twin(moved, rule, screen))

    ways: dict[str, Callable[[], Call]] = {
        "kernel": by_kernel,
        "kernel, only what is seen": lambda: by_kernel(only_seen=True),
        "torch fused Adam": lambda: by_torch(fused=True, capturable=True),
        "torch foreach Adam": lambda: by_torch(foreach=True),
        "twin": by_twin,
    }
    if compiled:
        ways["twin compiled"] = lambda: torch.compile(by_twin(), dynamic=False)
    values = sum(leaf.numel() for leaf in leaves)
    return Case(
        "splat_adam",
        {"gaussians": n, "sh_degree": sh_degree, "views": VIEWS},
        28 * values + VIEWS * n * 12 + 16 * n,
        ways,
        ("kernel", "torch fused Adam", "twin", "twin compiled"),
    )


def reconstruction(shape: tuple[int, ...], compiled: bool) -> Case:
    """What a reconstruction step does beside the network: noise, guidance, rescaling, loss, gradient."""
    generator = torch.Generator("cuda").manual_seed(0)
    drawn = [torch.randn(shape, device="cuda", generator=generator) for _ in range(4)]
    latents, eps, without, given = drawn[0].requires_grad_(), drawn[1], drawn[2], drawn[3]
    signal = torch.linspace(0.999, 0.05, 1000, device="cuda")
    sigma = (1.0 - signal.square()).sqrt()
    index = torch.full(shape[:1], 600, device="cuda")
    levels = Levels(signal, sigma, index)
    process = noise.NoiseProcess(signal, sigma, torch.arange(1000, device="cuda"), "epsilon")

    def as_now() -> Tensor:
        noisy = noise.add_noise(process, latents.detach(), eps, index)
        guided = without + GUIDED.scale * (given - without)
        clean, _ = noise.clean_and_noise(process, guided, noisy, index)
        conditional, _ = noise.clean_and_noise(process, given, noisy, index)
        noise.clean_and_noise(process, without, noisy, index)  # `Prediction` holds all three
        target = distillation.rescale_clean(clean, conditional, GUIDED.share, GUIDED.n_views)
        loss = distillation.reconstruction_loss(latents, target)
        return torch.autograd.grad(loss, latents)[0]

    def by_twin() -> tuple[Tensor, Tensor]:
        clean = latents.detach()
        noisy = noised_twin(clean, eps, levels)
        residual = clean - target_twin(noisy, without, given, levels, GUIDED)
        return 0.5 * residual.square().sum() / shape[0], residual / shape[0]

    def by_kernel() -> Tensor:
        noisy = kernels.add_noise(latents.detach(), eps, levels)
        loss = kernels.reconstruction_loss(latents, noisy, without, given, levels, GUIDED)
        return torch.autograd.grad(loss, latents)[0]

    def make_kernel() -> Call:
        kernels.require()
        return by_kernel

    ways: dict[str, Callable[[], Call]] = {
        "kernel": make_kernel,
        "as now": lambda: as_now,
        "twin": lambda: by_twin,
    }
    if compiled:
        ways["twin compiled"] = lambda: torch.compile(by_twin, dynamic=False)
    # noise: 2 read, 1 written; loss: 4 read, 1 written; backward: 1 read, 1 written
    return Case(
        "reconstruction",
        {"latents": list(shape)},
        4 * 10 * latents.numel(),
        ways,
        tuple(ways),
    )


def perturb_means(n: int, compiled: bool) -> Case:
    """The noise of densification by sampling, on n Gaussians."""
    tensors, _ = sampled(n)
    amounts = {"amount": 1.0, "dead": 0.005}

    def by_kernel() -> Call:
        kernels.require()
        return lambda: kernels.perturb_means(*tensors, **amounts)

    def by_twin() -> Call:
        return lambda: perturb_twin(*tensors, **amounts)

    def with_draw(move: Callable[..., None]) -> Call:
        def step() -> None:
            drawn = torch.randn(n, 3).to("cuda", non_blocking=True)
            move(*tensors[:4], drawn, **amounts)

        return step

    ways: dict[str, Callable[[], Call]] = {"kernel": by_kernel, "twin": by_twin}
    if compiled:
        ways["twin compiled"] = lambda: torch.compile(by_twin(), dynamic=False)
    graphed = tuple(ways)
    ways["kernel, noise drawn and sent"] = lambda: with_draw(kernels.perturb_means)
    ways["twin, noise drawn and sent"] = lambda: with_draw(perturb_twin)
    # 14 values read, 3 written
    return Case("perturb_means", {"gaussians": n}, 4 * 17 * n, ways, graphed)


def relocated(n: int, compiled: bool) -> Case:
    """Opacities and scales after a round of densification by sampling, for n Gaussians."""
    (_, log_scales, _, logits, _), copies = sampled(n)

    def by_kernel() -> Call:
        kernels.require()
        return lambda: kernels.relocated(logits, log_scales, copies)

    def by_twin() -> Call:
        return lambda: relocated_twin(logits, log_scales, copies)

    ways: dict[str, Callable[[], Call]] = {"kernel": by_kernel, "twin": by_twin}
    if compiled:
        ways["twin compiled"] = lambda: torch.compile(by_twin(), dynamic=False)
    # 5 values read, 4 written
    return Case("relocated", {"gaussians": n}, 4 * 9 * n, ways, tuple(ways))


def sampled(n: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return means, log scales, quaternions, opacity logits and noise, and how many stand in each place."""
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = ((n, 3), (n, 3), (n, 4), (n,), (n, 3))
    tensors = tuple(torch.randn(*shape, device="cuda", generator=generator) for shape in shapes)
    copies = torch.randint(1, 5, (n,), device="cuda", generator=generator)
    return tensors, copies.int()


def patches(sides: tuple[int, int], compiled: bool) -> Case:
    """The critic's image path for `VIEWS` renders, forwards and backwards."""
    generator = torch.Generator("cuda").manual_seed(0)
    images = torch.rand(VIEWS, sides[0], sides[0], 3, device="cuda", generator=generator)
    images.requires_grad_()
    layout = preprocess.PatchLayout()
    cut = kernels.Cut(
        (sides[1], sides[1]),
        layout.patch_size,
        layout.merge_size,
        layout.temporal_patch_size,
        layout.mean,
        layout.std,
    )
    slope = torch.ones_like(preprocess.to_patches(images, layout)[0])

    def both_ways(path: Callable[[Tensor], Tensor]) -> Call:
        return lambda: torch.autograd.grad(path(images), images, slope)[0]

    def by_kernel() -> Call:
        kernels.require()
        return both_ways(lambda pixels: kernels.critic_patches(pixels, cut))

    def of_twin(pixels: Tensor) -> Tensor:
        return patches_twin(pixels, cut)[0]

    ways: dict[str, Callable[[], Call]] = {
        "kernel": by_kernel,
        "as now": lambda: both_ways(lambda pixels: preprocess.to_patches(pixels, layout)[0]),
        "twin": lambda: both_ways(of_twin),
    }
    if compiled:
        ways["twin compiled"] = lambda: both_ways(torch.compile(of_twin, dynamic=False))
    # forwards: pictures read, patches written; backwards: patches and pictures read, pictures written
    return Case(
        "critic_patches",
        {"views": VIEWS, "render_px": sides[0], "seen_px": sides[1]},
        4 * (3 * images.numel() + 2 * slope.numel()),
        ways,
        (
            "kernel",
            "twin",
        ),  # what is done now uploads its constants at each call, which no graph may
    )

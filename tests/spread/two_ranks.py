"""A program that the tests start twice, as two processes of a run; it fails where they differ from one.

Its arguments are the file to meet at, and its number.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import NotFiniteError, ProcessError
from vlm3d_gs.core.initialize import ball
from vlm3d_gs.render import Rendering, render
from vlm3d_gs.spread.networks import DividedScorer
from vlm3d_gs.spread.ranks import Ranks, RunLeftError
from vlm3d_gs.spread.renderer import DividedRenderer
from vlm3d_gs.spread.rows import by_rows


class Counting:
    """Squares rows, and remembers how many it was given."""

    def __init__(self, factors: Tensor) -> None:
        self.factors, self.rows = factors, 0

    def __call__(self, rows: Tensor, places: slice) -> Tensor:
        """Square rows and multiply each by a factor of its own."""
        self.rows += len(rows)
        return rows.square() * self.factors[places]


def check_rows(ranks: Ranks) -> None:
    """Values and gradients of rows, for numbers that divide evenly, unevenly and not at all."""
    for count, unit in ((1, 1), (2, 1), (5, 1), (8, 4), (12, 4)):
        rows = torch.arange(count * 3.0).reshape(count, 3).requires_grad_()
        work = Counting(torch.arange(1.0, count + 1.0)[:, None])
        result = by_rows(work, rows, ranks, unit)
        (gradient,) = torch.autograd.grad(result, rows, torch.full_like(result, 0.5))
        assert result.equal(rows.detach().square() * work.factors), (count, unit)
        assert gradient.equal(rows.detach() * work.factors), (count, unit)
        if count > unit:
            assert work.rows < count, "nothing was divided"
        with torch.no_grad():
            assert by_rows(work, rows, ranks, unit).equal(result)


def check_renders(ranks: Ranks) -> None:
    """Pictures, gradients on the scene and on the centres, also where they are asked for twice."""
    renderer = DividedRenderer(ranks, lambda: 0)
    for views in (1, 3, 4):
        cameras = orbit([70.0 * view for view in range(views)], 10.0, 3.0, 40.0, 24, 24)
        background = torch.rand(views, 3, generator=torch.Generator().manual_seed(3))
        shown = [_drawn(draw, cameras, background) for draw in (render, renderer)]
        (one, of_one), (two, of_two) = shown
        for name in Rendering._fields:
            assert getattr(two, name).equal(getattr(one, name)), name
        assert two.means2d.grad is not None
        assert torch.allclose(two.means2d.grad, one.means2d.grad, rtol=1e-5, atol=1e-7)
        for mine, ours in zip(of_one, of_two, strict=True):
            # A sum in another order; its terms cancel here and there.
            assert (ours - mine).abs().max() < 1e-5 * mine.abs().max(), (ours, mine)


def _drawn(
    draw: Callable[..., Rendering], cameras: object, background: Tensor
) -> tuple[Rendering, list[Tensor]]:
    random = torch.Generator().manual_seed(1)
    scene = ball(50, 0.6, random, opacity=0.3)
    scene = replace(scene, log_scales=scene.log_scales + 0.3 * torch.randn(50, 3, generator=random))
    leaves = {name: value.requires_grad_() for name, value in scene.parameters().items()}
    seen = draw(scene.changed(leaves), cameras, background=background)
    (first,) = torch.autograd.grad(seen.alpha.sum(), [leaves["means"]], retain_graph=True)
    loss = seen.color.square().sum() + seen.alpha.sum() + 0.1 * seen.depth.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert seen.means2d.grad is not None
    gradients = [leaf.grad for leaf in leaves.values() if leaf.grad is not None]
    return seen, [first, *gradients]


class Deaf:
    """Scores scenes by their mean; one process gets no answer to scenes of sevens."""

    def scores(self, images: Tensor, names: Sequence[str]) -> Sequence[float] | None:
        """Return the means."""
        return None if bool((images == 7.0).any()) else images.flatten(1).mean(1).tolist()


def check_scores(ranks: Ranks) -> None:
    """Scores of scenes, and no answer for all where one process has none."""
    scorer = DividedScorer(Deaf(), ranks)
    scenes = torch.arange(3.0)[:, None].expand(3, 8)
    assert scorer.scores(scenes, ()) == [0.0, 1.0, 2.0]
    assert scorer.scores(torch.full_like(scenes, 7.0), ()) is None
    assert scorer.scores(torch.cat([scenes, scenes + 5.0]), ()) is None


def check_steps(ranks: Ranks) -> None:
    """Whoever is ahead goes back, and both know that one was asked to stop."""
    if ranks.rank == 1:
        with pytest.raises(NotFiniteError):
            ranks.agree(5, 10)
    ranks.agree(4, 10)
    assert not ranks.should_stop()

    ranks.asked_to_stop = lambda: ranks.rank == 0
    assert not ranks.should_stop(), "one process alone must not stop"
    ranks.agree(5, 10)
    assert ranks.should_stop()

    with pytest.raises(ProcessError, match=r"\[10, 11\] Gaussians"):
        ranks.agree(6, 10 + ranks.rank)


def check_ends(ranks: Ranks, meeting: Path) -> None:
    """A process that leaves is not waited for, and one that dies neither."""
    if ranks.rank == 0:
        with pytest.raises(RunLeftError):
            ranks.agree(7, 10)
    ranks.leave()
    if ranks.rank == 1:
        dist.destroy_process_group()

    ranks.connect(meeting.with_suffix(".again"), torch.device("cpu"))
    ranks.agree(0, 10)
    if ranks.rank == 1:
        os._exit(0)
    with pytest.raises(ProcessError, match="does not answer"):
        ranks.agree(1, 10)


def main() -> None:
    """Meet the other process and check everything."""
    torch.set_num_threads(1)
    meeting = Path(sys.argv[1])
    ranks = Ranks(int(sys.argv[2]), 2)
    ranks.connect(meeting, torch.device("cpu"))
    check_rows(ranks)
    check_renders(ranks)
    check_scores(ranks)
    check_steps(ranks)
    check_ends(ranks, meeting)
    sys.stdout.write("sound\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

"""The critic's fused image path: its arithmetic on the host against the twin, the twin against `preprocess`."""

from __future__ import annotations

import ctypes

import pytest
import torch
import torch.nn.functional as F

from gradients import assert_grad_close
from host_kernels import build
from kernel_cases import CLIP, CUTS, pictures
from vlm3d_gs.critic.qwen.preprocess import PatchLayout, fitting_size, to_patches
from vlm3d_gs.kernels import Cut, critic_patches
from vlm3d_gs.kernels.critic_patches import CTask, cut_pictures, taps, transposed_taps, twin
from vlm3d_gs.kernels.library import address


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("name", CUTS)
def test_the_arithmetic_is_the_twins(
    host: ctypes.CDLL, generator: torch.Generator, name: str
) -> None:
    size, cut = CUTS[name]
    images = pictures(2, size, generator)
    leaf = images.clone().requires_grad_()
    expected, unclamped = twin(leaf, cut)
    slope = torch.randn(expected.shape, generator=generator)
    expected.backward(slope)

    patches, d_images = torch.empty_like(slope), torch.empty_like(images)
    inside = torch.empty(2, *cut.size, dtype=torch.uint8)
    tables = (taps(a, b, "cpu") for a, b in zip(size, cut.size, strict=True))
    task = CTask.of(images, cut, *tables)
    task.patches, task.inside = address(patches), address(inside)
    host.critic_patches(task)
    torch.testing.assert_close(patches, expected.detach(), rtol=1e-5, atol=2e-5)
    assert torch.equal(inside, unclamped)

    back = [transposed_taps(a, b, "cpu") for a, b in zip(size, cut.size, strict=True)]
    task = CTask.of(images, cut, *back)
    d_pixels = torch.empty(2, *cut.size, 3)
    task.inside, task.d_patches = address(inside), address(slope)
    task.d_pixels, task.d_images = address(d_pixels), address(d_images)
    host.critic_patches_backward(task)
    assert_grad_close("images", d_images, leaf.grad)


@pytest.mark.parametrize(("size", "out"), [(256, 252), (512, 504), (100, 37), (20, 45), (7, 7)])
def test_a_table_is_the_resize_of_torch(size: int, out: int) -> None:
    line = torch.eye(size, dtype=torch.float64)[:, None, None, :]
    resized = F.interpolate(line, (1, out), mode="bicubic", antialias=True)[:, 0, 0]
    for table, expected in (
        (taps(size, out, "cpu"), resized.T),
        (transposed_taps(size, out, "cpu"), resized),
    ):
        dense = torch.zeros_like(expected)
        for i, (first, count) in enumerate(zip(table.first, table.count, strict=True)):
            dense[i, first : first + count] = table.weights[i, :count].double()
        torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-5)


def test_the_patches_are_those_of_the_critic(generator: torch.Generator) -> None:
    layout = PatchLayout(patch_size=4, min_pixels=64, max_pixels=2000)
    images = pictures(2, (50, 44), generator)
    size = fitting_size(50, 44, layout)
    assert size != (50, 44)
    ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    patches = critic_patches(ours, Cut(size, 4, 2, 2, **CLIP))
    expected, _ = to_patches(theirs, layout)
    torch.testing.assert_close(patches, expected)
    slope = torch.randn(patches.shape, generator=generator)
    patches.backward(slope)
    expected.backward(slope)
    assert_grad_close("images", ours.grad, theirs.grad)


def test_the_operator_says_the_truth_about_itself(generator: torch.Generator) -> None:
    images = pictures(1, (9, 8), generator).requires_grad_()
    torch.library.opcheck(cut_pictures, (images, [8, 8, 2, 2, 2], [0.5] * 3, [0.2] * 3))

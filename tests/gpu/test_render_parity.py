"""gsplat on a GPU against the definition: pictures, gradients, radii."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradients import assert_grad_close
from oracles import decided_pixels, draw_scene, ring
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render import gsplat_backend, reference, render

pytestmark = pytest.mark.gpu


@pytest.fixture
def gsplat() -> Any:
    """The installed gsplat; imported only after CUDA was found, because newer versions compile at import."""
    assert torch.cuda.is_available()
    return pytest.importorskip("gsplat", reason="gsplat is not installed: vlm3d-gs setup gpu")


@pytest.mark.parametrize("sh_degree", [0, 1, 3])
@pytest.mark.parametrize(
    "kinds", [("plain",), ("behind", "off_screen", "faint"), ("huge",), ("zero_quat",)]
)
def test_gsplat_agrees_with_the_definition(gsplat, sh_degree, kinds):
    scene, cameras = draw_scene(60, 3, sh_degree, kinds), ring(2)
    # below both versions' caps, so that the cap plays no part here
    scene = Gaussians(
        **{**scene.parameters(), "opacity_logits": scene.opacity_logits.clamp(max=3.0)}
    )
    decided = decided_pixels(scene, cameras, margin=5e-3)[..., None]
    background, results = torch.rand(2, 3), {}
    for backend, device in (("gsplat", "cuda"), ("reference", "cpu")):
        leaves = {n: v.clone().to(device).requires_grad_() for n, v in scene.parameters().items()}
        drawn = render(Gaussians(**leaves), cameras, backend=backend, background=background)
        generator = torch.Generator().manual_seed(1)
        loss = torch.zeros((), device=device)
        for image in (drawn.color, drawn.alpha, drawn.depth):
            weight = torch.randn(image.shape, generator=generator) * decided
            loss = loss + (image * weight.to(device)).sum()
        loss.backward()
        results[backend] = (
            drawn,
            {n: v.grad.cpu() for n, v in leaves.items()},
            drawn.means2d.grad.cpu(),
        )
    (ours, gradients, d_means2d), (expected, witnesses, d_expected) = (
        results["gsplat"],
        results["reference"],
    )
    for name in ("color", "alpha", "depth"):
        a, b = getattr(ours, name).cpu() * decided, getattr(expected, name) * decided
        torch.testing.assert_close(
            a, b, rtol=1e-4, atol=5e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    scale = max(float(value.norm()) for value in witnesses.values())
    for name, witness in witnesses.items():
        assert_grad_close(name, gradients[name], witness, scale)
    seen = expected.radii > 0
    assert_grad_close("means2d", d_means2d * seen[..., None], d_expected * seen[..., None], scale)
    assert float((ours.radii.cpu() - expected.radii)[seen].abs().max()) <= 1.0 + 1e-3 * float(
        expected.radii.max()
    )


def test_cap_of_the_installed_version_is_the_one_we_know(gsplat, monkeypatch):
    scene, cameras = draw_scene(20, 5, 0, ("opaque",)), ring(1)
    newer = gsplat_backend.parse_version(gsplat.__version__) >= (1, 6)
    monkeypatch.setattr(reference, "ALPHA_CAP", 0.99 if newer else 0.999)
    expected = render(scene, cameras, backend="reference").alpha
    drawn = render(scene.to("cuda"), cameras, backend="gsplat").alpha.cpu()
    assert float(((drawn - expected).abs() > 1e-3).float().mean()) < 0.01


def test_an_empty_scene_shows_the_background(gsplat):
    drawn = render(draw_scene(0, 0).to("cuda"), ring(2), background=(0.1, 0.2, 0.3))
    torch.testing.assert_close(drawn.color.cpu()[0, 0, 0], torch.tensor([0.1, 0.2, 0.3]))

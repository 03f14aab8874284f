"""Samples from a multi-view prior."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines import tiny_sd15
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.prior.loading.pipeline import load_denoiser
from vlm3d_gs.prior.loading.text import embed_texts
from vlm3d_gs.prior.sampling import sample_views

CPU = torch.device("cpu")
CAMERAS = orbit([0.0, 90.0, 180.0, 270.0], 15.0, 3.0, 40.0, 64, 64)


def test_samples_are_pictures_of_each_prompt_and_view() -> None:
    folder = embedded_weights("prior")
    denoiser = load_denoiser(folder, CPU, dtype=torch.float32)
    texts = embed_texts(folder, ["", "a red cube", "a blue cone"], CPU)
    both, first = (
        sample_views(denoiser, chosen, CAMERAS, torch.Generator().manual_seed(0), steps=2)
        for chosen in (texts, texts.rows([0, 1]))
    )
    assert both.shape == (2, 4, 64, 64, 3)
    assert 0.0 <= float(both.min()) <= float(both.max()) <= 1.0
    torch.testing.assert_close(both[:1], first, atol=1e-4, rtol=1e-4)
    assert (both[0] - both[1]).abs().max() > 0.1


def test_a_model_without_cameras_is_refused(tmp_path: Path) -> None:
    folder = tiny_sd15(tmp_path / "sd15")
    texts = embed_texts(folder, ["", "a red cube"], CPU)
    with pytest.raises(ConfigError, match="no camera embedding"):
        sample_views(load_denoiser(folder, CPU), texts, CAMERAS, torch.Generator())

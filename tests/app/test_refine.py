"""app.refine: what is held, what is refused, and the original's bytes where nothing became better."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from evaluate.damaged_splats import objects_of, splat_of
from vlm3d_gs.app.refine import AnchoredTargets, refine_splat
from vlm3d_gs.cli import app
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.refining import SOUND, WRONG, for_refining
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.optimize.guidance import Progress, Views
from vlm3d_gs.optimize.targets import Chain
from vlm3d_gs.render import render

PROMPT = "a red cube"


@pytest.fixture(scope="module")
def cube() -> Gaussians:
    return splat_of(objects_of(PROMPT))


class Plain:
    """Draws one colour."""

    name = "prior"

    def azimuth_range_deg(self, chain: Chain, progress: Progress) -> None:
        return None

    def draw(
        self, views: Views, chain: Chain, progress: Progress
    ) -> tuple[Tensor, dict[str, float]]:
        return torch.full((len(views.cameras), 32, 32, 3), 0.25), {"noise_level": 0.5}


@pytest.mark.parametrize("keep", [0.25, 1.0])
def test_what_is_kept_is_the_originals_share_in_front_of_the_pictures_colour(
    cube: Gaussians, keep: float
) -> None:
    cameras = orbit([0.0, 90.0], 15.0, 3.0, 40.0, 32, 32)
    views = Views(torch.zeros(2, 32, 32, 3), cameras, 2)
    source = AnchoredTargets(Plain(), cube, keep, "auto")
    pictures, scalars = source.draw(views, Chain(0.5, 1, 1), Progress(0, 10))

    shown = render(cube, cameras, background=(0.25, 0.25, 0.25)).color
    assert torch.allclose(pictures, (1.0 - keep) * 0.25 + keep * shown, atol=1e-5)
    assert scalars == {"noise_level": 0.5}


def test_noise_begins_lower_and_there_is_room_for_every_gaussian() -> None:
    config = preset("mini", PROMPT)
    sound, wrong = (for_refining(config, level, 50_000) for level in (SOUND, WRONG))
    assert sound.reconstruct.noise_level(0.0) == SOUND < wrong.reconstruct.noise_level(0.0)
    assert sound.reconstruct.candidates(0.0) == 1 < wrong.reconstruct.candidates(0.0)
    assert sound.scene.max_gaussians == 100_000
    assert 0 < sound.train.steps < config.train.steps


def test_a_splat_that_became_worse_is_given_back_byte_for_byte(
    cube: Gaussians, tmp_path: Path
) -> None:
    source, out = tmp_path / "cube.ply", tmp_path / "refined.ply"
    far = cube.changed({"means": cube.means * 3.0 + 10.0, "log_scales": cube.log_scales + 1.0986})
    write_splat(far, source)
    # One step at absurd rates tears it apart.
    settings = ["optim.means_lr=1", "optim.opacity_logits_lr=5", "densify.enabled=false"]
    config = apply_settings(preset("mini", PROMPT), {}, settings)
    result = refine_splat(source, config, out, noise_level=1.0, steps=1, quiet=True)
    assert not result.accepted
    assert max(result.after) < max(result.before), "the judge sees a cube, so it was framed"
    assert out.read_bytes() == source.read_bytes()
    assert "is the original" in result.message


def test_refusals(tmp_path: Path, cube: Gaussians) -> None:
    source = tmp_path / "cube.ply"
    write_splat(cube, source)
    for arguments, says in (
        (["--out", str(source)], "exists"),
        (["--out", str(tmp_path / "none" / "a.ply")], "does not exist"),
        (["--keep", "2"], "--keep must be from 0 to 1"),
        (["--set", "critic.enabled=false"], "needs a critic"),
        (["--preset", "sd"], "needs a critic"),
        (["--set", "train.loop=distill"], "needs train.loop=reconstruct"),
    ):
        result = CliRunner().invoke(app, ["refine", str(source), PROMPT, *arguments])
        assert result.exit_code == 2, result.output
        assert says in result.output.replace("\n", " ")
    assert not (tmp_path / "cube-refined.ply").exists()

    config = preset("mini", PROMPT)
    with pytest.raises(ConfigError, match="--noise must be"):
        refine_splat(source, config, tmp_path / "b.ply", noise_level=2.0)

"""Detects reward hacking: a reward that rises while the scene gets worse.

From time to time the scene is scored in two ways: by the critic's own questions on views like those of the run, and by
a held-out judge with other words, from other views, at another resolution. When the reward has risen and the held-out
score has fallen, the two have diverged, and the scene with the best held-out score should be exported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs.config import Backend, CameraConfig, WatchConfig
from vlm3d_gs.config.critic import ViewNames
from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.critic.questions.templates import view_names
from vlm3d_gs.render import render

OWN_VIEWS = ((0.0, 0.5),)
"""Views of the reward: (azimuth offset in degrees, position in the config's range of elevations, 0 to 1)."""
HELD_OUT_VIEWS = ((12.0, 0.9), (-12.0, 0.1))
"""Views of the held-out score; offsets within the tolerance of the view names."""
HELD_OUT_SCALE = 2
"""Resolution of the judge's views over that of the run."""
GREY = (0.5, 0.5, 0.5)
CANDIDATES_FROM = 0.5
"""Readings before this fraction of the run are never exported: the scene is unfinished."""

Scorer = Callable[[Tensor, Sequence[str]], float]
"""Mean log-odds of a set of questions about one group of views [V, H, W, 3] and their names."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Both scores of the scene after one step."""

    step: int
    """Steps done."""
    reward: float
    """Mean log-odds of the critic's own questions."""
    held_out: float
    """Mean log-odds of the judge's questions."""


@dataclass
class RewardWatch:
    """Scores the scene from time to time, keeps the best one, and reports when the two scores have diverged."""

    own: Scorer
    """The critic's own questions."""
    judge: Scorer
    """The held-out questions."""
    camera: CameraConfig
    """Distances, elevations and field of view of the run."""
    config: WatchConfig
    """Margin."""
    steps: int
    """Steps of the whole run."""
    backend: Backend = "auto"
    """Renderer."""
    names: ViewNames = "four"
    """Of the views, in the message of both scores."""
    readings: list[Reading] = field(default_factory=list)
    """In order of the steps."""
    best: tuple[float, int, Gaussians] | None = None
    """Held-out score, step and scene of the best candidate."""

    @torch.no_grad()
    def __call__(self, gaussians: Gaussians, step: int) -> dict[str, float]:
        """Score the scene after a step; return both scores for the log."""
        side = round(self.camera.resolution_px(step / self.steps))
        reward = self._mean(gaussians, self.own, OWN_VIEWS, side)
        held_out = self._mean(gaussians, self.judge, HELD_OUT_VIEWS, side * HELD_OUT_SCALE)
        self.readings.append(Reading(step, reward, held_out))

        if step >= CANDIDATES_FROM * self.steps and (self.best is None or held_out > self.best[0]):
            copies = {name: value.cpu().clone() for name, value in gaussians.parameters().items()}
            self.best = (held_out, step, gaussians.changed(copies))

        return {"watch/reward": reward, "watch/held_out": held_out}

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the readings and the best scene, for a checkpoint."""
        rows = [(reading.step, reading.reward, reading.held_out) for reading in self.readings]
        tensors = {"readings": torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)}
        if self.best is None:
            return tensors

        score, step, scene = self.best
        tensors["best"] = torch.tensor([score, step], dtype=torch.float64)
        return tensors | {f"scene.{name}": value for name, value in scene.parameters().items()}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned; without readings, as in older checkpoints, nothing changes."""
        if "readings" not in tensors:
            return
        self.readings = [
            Reading(int(step), reward, held_out)
            for step, reward, held_out in tensors["readings"].tolist()
        ]

        self.best = None
        if "best" in tensors:
            score, step = tensors["best"].tolist()
            scene = {
                name.removeprefix("scene."): value
                for name, value in tensors.items()
                if name.startswith("scene.")
            }
            self.best = (score, int(step), Gaussians.from_parameters(scene))

    def diverged(self) -> bool:
        """Return whether the last held-out score is below the best by the margin, though the reward is not lower."""
        if self.best is None:
            return False

        score, step, _ = self.best
        last = self.readings[-1]
        at_best = next(reading for reading in self.readings if reading.step == step)

        return score - last.held_out > self.config.margin and last.reward >= at_best.reward

    def choose(self, final: Gaussians) -> tuple[Gaussians, int, str | None]:
        """Return the scene to export, its step, and a message to the user; None if the scores have not diverged."""
        last = self.readings[-1]
        if not self.diverged() or self.best is None:
            return final, last.step, None

        score, step, scene = self.best
        message = (
            f"Reward and held-out score have diverged: after step {step} the held-out score fell from {score:.1f} to "
            f"{last.held_out:.1f} while the reward rose. Exporting the scene of step {step}. A lower critic.weight or "
            "more critic.augment may help."
        )

        chosen = replace(scene.to(final.device), antialiased=final.antialiased)
        return chosen, step, message

    def summary(self) -> dict[str, Any]:
        """Return both curves for summary.json."""
        return {
            "steps": [reading.step for reading in self.readings],
            "reward": [round(reading.reward, 3) for reading in self.readings],
            "held_out": [round(reading.held_out, 3) for reading in self.readings],
            "diverged": bool(self.readings) and self.diverged(),
        }

    def _mean(
        self,
        gaussians: Gaussians,
        score: Scorer,
        poses: tuple[tuple[float, float], ...],
        side_px: int,
    ) -> float:
        """Render groups of four named views at `poses` on grey and return their mean score."""
        total = 0.0
        for offset, height in poses:
            cameras = named_views(self.camera, offset, height, side_px).to(gaussians.device)
            color = render(gaussians, cameras, backend=self.backend, background=GREY).color
            total += score(color, view_names(cameras.azimuths_deg, self.names))

        return total / len(poses)


def named_views(camera: CameraConfig, offset_deg: float, height: float, side_px: int) -> Cameras:
    """Return front, right, back and left cameras, in the middle of a config's distances and fields of view.

    Args:
        camera: ranges of a run.
        offset_deg: added to the azimuths.
        height: position in the range of elevations, 0 to 1.
        side_px: width and height of the images.
    """
    low, high = camera.elevation_deg
    azimuths = [(offset_deg + 90.0 * view) % 360.0 for view in range(4)]
    fov = sum(camera.fov_deg) / 2.0
    distance = camera.distance_at(0.5, fov)

    return orbit(azimuths, low + height * (high - low), distance, fov, side_px, side_px)

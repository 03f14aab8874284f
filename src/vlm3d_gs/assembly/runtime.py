"""Which library computes the prior's networks: torch, or the graphs that were exported from them."""

from __future__ import annotations

from pathlib import Path

import torch

from vlm3d_gs.config import CameraConfig, PriorConfig
from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.core.residency import Plan
from vlm3d_gs.prior.losses import loss_named
from vlm3d_gs.runtime.manifest import has_graphs, read_manifest


def uses_graphs(
    settings: PriorConfig, folder: Path, device: torch.device, plan: Plan, camera: CameraConfig
) -> bool:
    """Return whether a prior runs by its exported graphs.

    Raises:
        ConfigError: `prior.runtime` is onnx, and they are absent or do not fit the run; the message says why.
    """
    if settings.runtime == "torch":
        return False

    objection = why_not(settings, folder, device, plan, camera)
    if objection is not None and settings.runtime == "onnx":
        raise ConfigError(
            f"prior.runtime=onnx is not possible: {objection} Or set prior.runtime=auto."
        )
    return objection is None


def why_not(
    settings: PriorConfig, folder: Path, device: torch.device, plan: Plan, camera: CameraConfig
) -> str | None:
    """Return why a run cannot use a prior's exported graphs, and what to change; None if it can."""
    if device.type != "cpu":
        return f"this run is on {device.type}, and the graphs run on the CPU. Set device=cpu."
    if plan != "full":
        return f"the memory plan {plan!r} is torch's. Set memory=full."
    if loss_named(settings.loss).trains_lora:
        return f"prior.loss={settings.loss} trains weights. Choose another loss."
    for name in ("tiny_vae", "sample_latents", "compile", "channels_last"):
        if getattr(settings, name):
            return f"prior.{name} is torch's. Leave it at its default."

    if settings.family == "mvdream" and not settings.use_cameras:
        return "the graphs always embed cameras. Set prior.use_cameras=true."

    if not has_graphs(folder):
        return f"{folder} has no exported graphs. Make them: vlm3d-gs models export {folder}."
    try:
        manifest = read_manifest(folder)
    except (ConfigError, InputFileError) as error:
        return str(error)
    stale = manifest.stale()
    if stale is not None:
        return f"{folder / stale} is not the file that was exported. Export again: vlm3d-gs models export {folder}."

    size_px = int(manifest.facts["size_px"])
    sides = {settings.size_px} if settings.size_px else _sides_px(camera)
    if sides != {size_px}:
        return f"the graphs read images of {size_px} px. Set prior.size_px={size_px}."
    n_views = joint_views(settings, camera) if manifest.facts["is_multiview"] else 1
    if f"network_{n_views}" not in manifest.graphs:
        return f"no graph denoises {n_views} views together. Set camera.n_views to a number that was exported."
    return None


def joint_views(settings: PriorConfig, camera: CameraConfig) -> int:
    """Return how many views a multi-view network denoises together: those of a group, or 1 without cameras."""
    return camera.n_views if settings.use_cameras else 1


def _sides_px(camera: CameraConfig) -> set[int]:
    """Return the sides of the renders at the points of their schedule; one alone means that they never change."""
    return {round(value) for _, value in camera.resolution_px.points}

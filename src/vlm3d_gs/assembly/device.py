"""Which device a run uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vlm3d_gs.assembly.weights import has_large_critic, large_priors
from vlm3d_gs.config import Config
from vlm3d_gs.config.bounds import check_device
from vlm3d_gs.core.errors import DeviceError
from vlm3d_gs.render.cpu.cache import mark_told, start_note
from vlm3d_gs.setup.gsplat_state import gsplat_obstacle

NO_GSPLAT = (
    "There is a CUDA device, but gsplat, which renders on it, {obstacle}: this run is on the CPU. "
    "Run: vlm3d-gs setup gpu (once; some minutes, no CUDA toolkit needed)."
)
SMALL_MODELS = (
    "There is a GPU, but the embedded models are too small to gain by it (a default run took 28 to 31 s on an H200, "
    "21 s on two cores): this run is on the CPU. Set device=cuda to use the GPU."
)
"""Measured before networks were recorded as CUDA graphs; docs/log/large-models.md."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the parts of a run are."""

    scene: torch.device
    """The scene and its renderer."""
    prior: torch.device
    """The networks of the priors."""
    critic: torch.device
    """Critic and judge."""

    @property
    def all(self) -> tuple[torch.device, ...]:
        """The different devices, that of the scene first."""
        return tuple(dict.fromkeys((self.scene, self.prior, self.critic)))


def places(config: Config, device: torch.device) -> Places:
    """Return where the parts of a run are, `device` being the run's.

    Raises:
        DeviceError: a CUDA device that torch does not see.
    """

    def chosen(setting: str, name: str) -> torch.device:
        return device if name == "auto" else choose_device(name, setting)

    devices = config.devices
    return Places(
        device, chosen("devices.prior", devices.prior), chosen("devices.critic", devices.critic)
    )


def choose_device(name: str, setting: str = "device") -> torch.device:
    """Return the device that `name` means; "auto" is CUDA if gsplat can render on it, and else the CPU.

    Args:
        name: as configured.
        setting: where; errors name it.

    Raises:
        ConfigError: no such name.
        DeviceError: a CUDA device that torch does not see.
    """
    check_device(name, setting)
    if name == "auto":
        can_render = torch.cuda.is_available() and not gsplat_obstacle()
        return torch.device("cuda" if can_render else "cpu")

    device = torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise DeviceError(f"{setting} is {name!r}, but torch sees {count} CUDA devices. Use cpu.")
    return device


def run_device(config: Config) -> torch.device:
    """Return the device of a run: as `choose_device`, but with embedded models alone "auto" is the CPU.

    Raises:
        ConfigError: no such name.
        DeviceError: a CUDA device that torch does not see.
    """
    if config.device == "auto" and has_small_models_only(config):
        return torch.device("cpu")
    return choose_device(config.device)


def has_small_models_only(config: Config) -> bool:
    """Return whether all models of a run that are computed here are embedded."""
    return not large_priors(config.priors) and not has_large_critic(config.critic)


def device_notes(name: str, device: torch.device, *, small: bool = False) -> list[str]:
    """Return what the user should know about the choice that "auto" made, and about what comes first.

    Args:
        name: as configured.
        device: what became of it.
        small: whether all models are embedded.
    """
    notes = []
    if name == "auto" and device.type == "cpu" and torch.cuda.is_available():
        no_gsplat = NO_GSPLAT.format(obstacle=gsplat_obstacle())
        notes.append(SMALL_MODELS if small else no_gsplat)
    slow = start_note() if device.type == "cpu" else None
    if slow:
        notes.append(slow)
        mark_told(slow)
    return notes

"""Where the networks of a run are, if not beside the scene."""

from __future__ import annotations

from dataclasses import dataclass

from vlm3d_gs.config.bounds import check_device


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesConfig:
    """Devices of the networks; the scene and its renderer are where `device` says, as is all that is `auto` here."""

    prior: str = "auto"
    """Of the diffusion priors: `auto`, `cpu`, `cuda` or `cuda:N`."""
    critic: str = "auto"
    """Of the critic and the held-out judge, likewise."""

    def __post_init__(self) -> None:
        check_device(self.prior, "devices.prior")
        check_device(self.critic, "devices.critic")

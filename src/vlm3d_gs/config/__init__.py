"""The settings of a run: small frozen dataclasses, one per part, and `Config` that holds them.

A run is a function that returns a `Config` (see `presets`); the resolved config is saved beside
every result. Anything that changes over a run is a `Schedule` over the fraction of the run, never
over step numbers. The string under a field says its meaning, unit and range. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from vlm3d_gs.config.bounds import Range, check, check_device
from vlm3d_gs.config.coerce import from_plain, replace_paths, to_plain
from vlm3d_gs.config.critic import (
    AugmentConfig,
    CriticConfig,
    CriticFamily,
    QuestionConfig,
    ServerConfig,
    WatchConfig,
)
from vlm3d_gs.config.devices import DevicesConfig
from vlm3d_gs.config.picture import Backend, Background, CameraConfig, RenderConfig, SceneConfig
from vlm3d_gs.config.prior import DETAIL_PRIOR, DistillationLoss, Family, PriorConfig
from vlm3d_gs.config.reconstruct import ReconstructConfig
from vlm3d_gs.config.regularizer import RegularizerConfig
from vlm3d_gs.config.run import (
    RUN_FOLDER,
    DensifyConfig,
    DensifyMethod,
    ExportConfig,
    ExportFormat,
    OptimConfig,
    TrainConfig,
    folder_name,
)
from vlm3d_gs.core.errors import ConfigError

__all__ = [
    "AugmentConfig",
    "Backend",
    "Background",
    "CameraConfig",
    "Config",
    "CriticConfig",
    "CriticFamily",
    "DensifyConfig",
    "DensifyMethod",
    "DevicesConfig",
    "DistillationLoss",
    "ExportConfig",
    "ExportFormat",
    "Family",
    "OptimConfig",
    "PriorConfig",
    "QuestionConfig",
    "ReconstructConfig",
    "RegularizerConfig",
    "RenderConfig",
    "SceneConfig",
    "ServerConfig",
    "TrainConfig",
    "WatchConfig",
    "apply_settings",
    "from_dict",
    "replace_path",
    "to_dict",
]


MOST_PROCESSES = Range(1, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that decides a run; equal configs on one machine give equal files.

    The defaults are the preset `mini`.
    """

    prompt: str
    """What to make."""
    preset: str = "mini"
    """Name of the preset that this config started from; for the record only."""
    out: Path = RUN_FOLDER
    """Folder for the results; `{prompt}` in it becomes the prompt as a file name."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`; auto is CUDA where torch sees a device and gsplat is installed."""
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    """Networks on other devices."""
    processes: Annotated[int, MOST_PROCESSES] = 1
    """Processes that share the run: its views, its pictures and chains of the prior, and the scenes that the critic
    compares. On the CPU they share its threads; on CUDA each has a card of its own, counted from `device`."""
    memory: Literal["auto", "full", "offload", "sequential"] = "auto"
    """Which networks stay on the GPU: all, one at a time, or one at a time with pictures one by one; auto chooses by
    free memory and reports its choice."""
    offline: bool = False
    """Never contact a model hub: use local folders and the cache only."""
    scene: SceneConfig = field(default_factory=SceneConfig)
    """First cloud and limits."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    """Training views."""
    render: RenderConfig = field(default_factory=RenderConfig)
    """Renderer."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """Diffusion prior."""
    detail: PriorConfig = DETAIL_PRIOR
    """A second prior on the same views, such as a single-image one for detail beside a multi-view one. It distils,
    which under `train.loop=reconstruct` is the end of the run."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """Vision-language critic."""
    densify: DensifyConfig = field(default_factory=DensifyConfig)
    """Growth and pruning."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Learning rates."""
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    """Terms that keep the scene clean."""
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    """Targets and fits, where `train.loop` is reconstruct."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, seed, previews."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """Products."""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ConfigError("The prompt is empty. Say what to make, e.g. 'a red cube'.")
        check_device(self.device)
        check("processes", self.processes, MOST_PROCESSES)
        if self.processes > 1 and self.devices != DevicesConfig():
            raise ConfigError(
                f"processes={self.processes} gives each process one device for everything, so devices.prior and "
                "devices.critic must be auto. Set processes=1, or leave them out."
            )
        names = self.critic.view_names
        if self.critic.enabled and names == "four" and self.camera.n_views != 4:
            raise ConfigError(
                f"camera.n_views is {self.camera.n_views}, but critic.view_names=four names the views of groups of 4. "
                "Set camera.n_views=4, or critic.view_names to eight, degrees or none, which the embedded critic did "
                "not learn, or do without a critic: --no-critic."
            )
        out = Path(str(self.out).replace("{prompt}", folder_name(self.prompt)))
        object.__setattr__(self, "out", out)

    @property
    def priors(self) -> dict[str, PriorConfig]:
        """The priors in use by name: `prior` and `detail`, where enabled."""
        both = {"prior": self.prior, "detail": self.detail}
        return {name: prior for name, prior in both.items() if prior.enabled}


def to_dict(config: Config) -> dict[str, Any]:
    """Return the config as plain data for JSON; schedules become numbers or their text form."""
    plain: dict[str, Any] = to_plain(config)
    return plain


def from_dict(data: Mapping[str, Any]) -> Config:
    """Return the config that `to_dict` wrote.

    Raises:
        ConfigError: an unknown key (the known ones are listed) or a value that is not allowed.
    """
    return from_plain(Config, data)


def replace_path(config: Config, path: str, value: Any) -> Config:
    """Return a copy with one setting changed, as `--set optim.means_lr=0.01` does.

    Raises:
        ConfigError: unknown path, or a value that the setting does not allow.
    """
    return replace_paths(config, {path: value})


def apply_settings(
    config: Config, values: Mapping[str, Any], assignments: Iterable[str] = ()
) -> Config:
    """Return a copy with several settings changed, as a command line asks for them.

    Args:
        config: where to start from.
        values: dotted path -> value; None leaves that setting as it is.
        assignments: texts `a.b=c`; they win over `values`, and later ones over earlier ones.

    Raises:
        ConfigError: an assignment without `=`, an unknown path, or a value that is not allowed.
    """
    changes = {path: value for path, value in values.items() if value is not None}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set needs a.b=c, got {assignment!r}. E.g. optim.sh_lr=0.01.")
        changes[path.strip()] = text.strip()
    return replace_paths(config, changes)

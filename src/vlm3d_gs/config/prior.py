"""Settings of a diffusion prior and of how it is distilled."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from vlm3d_gs.config.bounds import Range, check, check_ranges
from vlm3d_gs.config.schedules import Schedule, constant, linear
from vlm3d_gs.core.errors import ConfigError

Family = Literal["mini", "mvdream", "sd15", "sd", "sdxl", "sd3"]
MULTIVIEW_FAMILIES: tuple[Family, ...] = ("mini", "mvdream")
"""Those that know cameras and can denoise the views of a group together."""
Runtime = Literal["auto", "torch", "onnx"]
DistillationLoss = Literal["recon", "sds", "csd", "ism", "sdi", "vsd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorConfig:
    """One diffusion or flow model, and the loss that distils it into the scene."""

    enabled: bool = True
    """Whether this prior is used."""
    family: Family = "mini"
    """Kind of model: `mini` and `mvdream` know cameras, the others draw one picture at a time."""
    model: str | None = None
    """Folder or hub id of other weights of the same family; none takes the family's own."""
    use_cameras: bool = True
    """Whether a multi-view model is given the cameras; off, it draws single pictures, as in a part of its training."""
    loss: DistillationLoss = "recon"
    """`recon` is the distance to the predicted clean latent, `sds` follows the noise residual, `csd` the classifier's
    share of it, `ism` and `sdi` invert the noise, `vsd` trains a LoRA on the renders."""
    guidance_scale: Annotated[Schedule, Range(1.0, 1000.0)] = constant(1.0)
    """Scale of classifier-free guidance."""
    rescale: Annotated[float, Range(0.0, 1.0)] = 0.0
    """0 keeps the guided prediction, 1 rescales it to the standard deviation of the conditional one: of the clean
    latents in recon, sdi and chains, of the noise in the other losses."""
    weighting: Literal["uniform", "sds", "fantasia3d", "ism"] | None = None
    """Weight of a noise level: 1, sigma^2, signal sigma^2 or sigma / signal. none is the loss's published one: uniform
    for recon and sdi, ism for ism, sds for the others."""
    reduction: Literal["views", "sum", "mean"] = "views"
    """How the loss adds up: `views` sums over a latent's values and averages over the views, as SDS and MVDream do;
    `sum` adds the views up too, as ISM is published; `mean` is the mean over the values, divided by the views, as SDI
    is published."""
    timesteps: Literal["uniform", "descend"] = "uniform"
    """Drawn between t_min and t_max, or descending from t_max at the start to t_min at the end."""
    t_max: Annotated[Schedule, Range(1e-3, 1.0)] = Schedule(
        "linear", ((0.0, 0.95), (0.6, 0.5), (1.0, 0.15))
    )
    """Highest noise level, as a fraction of the training timesteps."""
    t_min: Annotated[Schedule, Range(0.0, 1.0)] = Schedule(
        "linear", ((0.0, 0.85), (0.6, 0.3), (1.0, 0.02))
    )
    """Lowest noise level, as a fraction of the training timesteps; never above t_max."""
    score_clip: Annotated[Schedule, Range(0.0, 1e6)] = constant(0.0)
    """Largest absolute value of the weighted residual; 0 is no limit."""
    inversion_interval: Annotated[Schedule, Range(1e-3, 0.5)] = linear(0.1, 0.08, 0.0, 0.3)
    """`ism`: distance between the two noise levels it compares, as a fraction of the training timesteps; the default is
    the published one."""
    inversion_prompt: Literal["empty", "negative"] = "empty"
    """`ism`: text under which the latents are inverted; published is the empty one."""
    inversion_steps: Annotated[int | None, Range(0, 1000)] = None
    """`ism` and `sdi`: network evaluations of an inversion over all timesteps, of which a lower noise level takes its
    share. 0 adds noise directly (ism only); none is the published number, 5 and 10."""
    lora_rank: Annotated[int, Range(1, 1024)] = 4
    """`vsd`: rank of the LoRA."""
    lora_lr: Annotated[float, Range(0.0, 1.0)] = 1e-4
    """`vsd`: learning rate of the LoRA."""
    offset_noise: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Standard deviation of a number that is added to the noise of a whole channel in distillation; LucidDreamer has
    0.1."""
    shared_timestep: bool = False
    """Give all view groups of a step the same noise level, as LucidDreamer does."""
    sample_latents: bool = False
    """Draw the latents of the renders from the encoder's distribution, as the published codes do, instead of taking its
    mean; needs AutoencoderKL."""
    weight: Annotated[Schedule, Range(0.0, 1e6)] = constant(1.0)
    """Weight of this loss."""
    negative_prompt: str = ""
    """Text of the unconditional branch."""
    view_prompts: Literal["off", "hard", "interpolate"] = "off"
    """Add front, side, back or overhead view to the prompt by azimuth: the nearest one, or a blend of two."""
    debias_prompt: bool = False
    """Drop words that contradict a view from its prompt, by a list of English words; needs view_prompts."""
    perp_neg: bool = False
    """Push views away from the prompts of the other views (Perp-Neg); needs view_prompts."""
    size_px: Annotated[int | None, Range(16, 4096)] = None
    """Side to which renders are resized for this prior, pixels; none takes them as they are."""
    tiny_vae: str | None = None
    """Folder of a tiny autoencoder (AutoencoderTiny) that replaces the pipeline's own."""
    runtime: Runtime = "auto"
    """What computes the networks: `torch`, or `onnx`, exported graphs on the CPU without diffusers and transformers
    (`vlm3d-gs models export`). `auto` takes the graphs where the model has some that fit the run."""
    compile: bool = False
    """Compile the network with torch.compile: slow to start, faster afterwards."""
    graphs: bool = True
    """Record the networks as CUDA graphs where that is possible: on a GPU, with weights that stay there and are not
    trained. MVDream then denoises four views in 15 ms instead of 33 (H200); elsewhere this changes nothing."""
    channels_last: bool = False
    """Store the channels of a pixel next to each other, the layout that recent GPUs prefer for convolutions; slower on
    CPUs. Results differ by rounding only. Not measured on a GPU yet."""

    def __post_init__(self) -> None:
        check_ranges(self, "prior")
        if self.loss == "sdi":
            check("prior.inversion_steps", self.inversion_steps, Range(1))
        self._check_read()

        for name in ("perp_neg", "debias_prompt"):
            if getattr(self, name) and self.view_prompts == "off":
                raise ConfigError(
                    f"prior.{name} needs the prompts of other views, but prior.view_prompts is off. "
                    "Set prior.view_prompts to interpolate or hard."
                )

        for at in sorted({fraction for fraction, _ in (*self.t_max.points, *self.t_min.points)}):
            if self.t_min(at) > self.t_max(at) + 1e-9:
                raise ConfigError(
                    f"prior.t_min is {self.t_min(at):.4g} and prior.t_max {self.t_max(at):.4g} at "
                    f"fraction {at:.4g} of the run; t_min must not be above t_max."
                )

    def _check_read(self) -> None:
        """Refuse settings that nothing would read.

        Raises:
            ConfigError: a setting differs from its default, but the loss has no use for it.
        """
        defaults = {each.name: each.default for each in fields(self)}
        for name, losses in READ_BY.items():
            if self.loss not in losses and getattr(self, name) != defaults[name]:
                raise ConfigError(
                    f"prior.{name} is {getattr(self, name)}, but prior.loss {self.loss} does not read it; "
                    f"{' and '.join(losses)} {'do' if len(losses) > 1 else 'does'}. Leave it at {defaults[name]}, or "
                    "choose another loss."
                )
        if self.tiny_vae is not None and self.sample_latents:
            raise ConfigError(
                "prior.sample_latents needs an encoder with a distribution, which prior.tiny_vae has not. "
                "Set one of the two to its default."
            )


READ_BY: dict[str, tuple[DistillationLoss, ...]] = {
    "inversion_interval": ("ism",),
    "inversion_prompt": ("ism",),
    "inversion_steps": ("ism", "sdi"),
    "lora_rank": ("vsd",),
    "lora_lr": ("vsd",),
}
"""Settings that only some losses read; every loss reads all others."""

DETAIL_PRIOR = PriorConfig(
    enabled=False,
    family="sd",
    guidance_scale=constant(10.0),
    rescale=0.5,
    t_max=linear(0.98, 0.5),
    t_min=linear(0.98, 0.02),
)
"""The second prior of every preset: a single-image model, off until `detail.enabled=true`."""

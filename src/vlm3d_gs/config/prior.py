"""Settings of a diffusion prior and of how it is distilled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlm3d_gs.config.bounds import check_at_least, check_schedule, check_within
from vlm3d_gs.config.schedules import Schedule, constant, linear
from vlm3d_gs.core.errors import ConfigError

Family = Literal["mini", "mvdream", "sd15", "sd", "sdxl", "sd3"]
DistillationLoss = Literal["recon", "sds", "csd", "ism", "sdi", "vsd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorConfig:
    """One diffusion or flow model, and the loss that pulls the renders towards what it would draw."""

    enabled: bool = True
    """Off leaves this prior out."""
    family: Family = "mini"
    """Which kind of model: `mini` and `mvdream` know cameras, the others one picture at a time."""
    model: str | None = None
    """Folder or hub id of other weights of the same family; None is the family's own."""
    use_cameras: bool = True
    """Off asks a multi-view model for single pictures without cameras, as its training sometimes did."""
    loss: DistillationLoss = "recon"
    """`recon` pulls towards the predicted clean latent, `sds` follows the noise residual, `csd` the
    classifier's part of it, `ism` and `sdi` work on inverted noise, `vsd` trains a LoRA of the renders."""
    guidance_scale: Schedule = constant(1.0)
    """Classifier-free guidance, 1 or more."""
    rescale: float = 0.0
    """Share of the standard-deviation rescale of the guided clean latent (recon), in [0, 1]."""
    weighting: Literal["uniform", "sds", "fantasia3d", "ism"] = "sds"
    """Weight of a noise level for sds, csd, ism and vsd: 1, sigma^2, signal sigma^2 or sigma / signal."""
    timesteps: Literal["uniform", "descend"] = "uniform"
    """Drawn between t_min and t_max, or walking down from t_max at the start to t_min at the end."""
    t_max: Schedule = Schedule("linear", ((0.0, 0.95), (0.6, 0.5), (1.0, 0.15)))
    """Upper end of the noise level, as part of the training timesteps, in (0, 1]."""
    t_min: Schedule = Schedule("linear", ((0.0, 0.85), (0.6, 0.3), (1.0, 0.02)))
    """Lower end of the noise level; never above t_max."""
    score_clip: Schedule = constant(0.0)
    """Largest absolute value of the weighted residual (all but recon); 0 is no limit."""
    inversion_interval: float = 0.05
    """`ism`: distance of the two noise levels it compares, as part of the training timesteps."""
    inversion_steps: int | None = None
    """`ism` and `sdi`: network evaluations of an inversion over all timesteps; a lower noise level takes
    its part of them. 0 noises directly (ism only); None is what was published (5 and 10)."""
    lora_rank: int = 4
    """Rank of the LoRA of `vsd`."""
    lora_lr: float = 1e-4
    """Its learning rate."""
    weight: Schedule = constant(1.0)
    """Weight of this loss, 0 or more."""
    negative_prompt: str = ""
    """Text of the unconditional branch."""
    view_prompts: Literal["off", "hard", "interpolate"] = "off"
    """Add front, side, back or overhead view to the prompt by azimuth: one of them, or blended."""
    debias_prompt: bool = False
    """Drop words that contradict a view from its prompt, by an English word list; needs view_prompts."""
    perp_neg: bool = False
    """Push views away from the other views' prompts (Perp-Neg); needs view_prompts."""
    size_px: int | None = None
    """Side to which renders are resized for this prior; None takes them as they are."""
    tiny_vae: str | None = None
    """Folder of a tiny autoencoder (AutoencoderTiny) that stands in for the pipeline's own."""
    compile: bool = False
    """Compile the network with torch.compile: slow to start, faster afterwards."""
    channels_last: bool = False
    """Keep a pixel's channels beside each other, as convolutions on recent GPUs want them; slower on CPUs. The pull is
    the same but for rounding. Not measured on a GPU yet."""

    def __post_init__(self) -> None:
        check_schedule("prior.guidance_scale", self.guidance_scale, 1.0, 1000.0)
        check_within("prior.rescale", self.rescale, 0.0, 1.0)
        check_schedule("prior.t_max", self.t_max, 1e-3, 1.0)
        check_schedule("prior.t_min", self.t_min, 0.0, 1.0)
        check_schedule("prior.score_clip", self.score_clip, 0.0, 1e6)
        check_schedule("prior.weight", self.weight, 0.0, 1e6)
        check_within("prior.inversion_interval", self.inversion_interval, 1e-3, 0.5)
        if self.inversion_steps is not None:
            check_at_least("prior.inversion_steps", self.inversion_steps, int(self.loss == "sdi"))
        check_at_least("prior.lora_rank", self.lora_rank, 1)
        check_within("prior.lora_lr", self.lora_lr, 0.0, 1.0)
        if self.size_px is not None:
            check_within("prior.size_px", self.size_px, 16, 4096)
        if self.perp_neg and self.view_prompts == "off":
            raise ConfigError(
                "prior.perp_neg needs the prompts of other views: set prior.view_prompts to "
                "'interpolate' or 'hard' too."
            )
        if self.debias_prompt and self.view_prompts == "off":
            raise ConfigError(
                "prior.debias_prompt changes the prompts of views: set prior.view_prompts to "
                "'interpolate' or 'hard' too."
            )
        for at in sorted({f for f, _ in (*self.t_max.points, *self.t_min.points)}):
            if self.t_min(at) > self.t_max(at) + 1e-9:
                raise ConfigError(
                    f"prior.t_min is {self.t_min(at):.4g} and prior.t_max {self.t_max(at):.4g} at "
                    f"fraction {at:.4g} of the run; t_min must not be above t_max."
                )


DETAIL_PRIOR = PriorConfig(
    enabled=False,
    family="sd",
    guidance_scale=constant(10.0),
    rescale=0.5,
    t_max=linear(0.98, 0.5),
    t_min=linear(0.98, 0.02),
)
"""The second prior of every preset: a single-image model, off until `detail.enabled=true`."""

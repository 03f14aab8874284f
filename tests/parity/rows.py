"""What docs/PARITY.md says, row by row: a formula here held against its source, or why it differs.

A row with `error` is measured by test_parity.py. `python tests/parity/table.py` writes docs/PARITY.md from these rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from comparisons import (
    adam,
    csd,
    ddim,
    dpm_solver,
    flow,
    ism,
    lora,
    mvdream,
    perp_neg,
    qwen,
    rescale,
    sds,
    vsd,
)
from renderer import antialiasing, projection


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    formula: str
    paper: str
    source: str
    """File and commit, or library."""
    error: Callable[[torch.dtype], float] | None = None
    """Greatest difference, relative to the greatest value; None where it differs on purpose."""
    bounds: tuple[float, float] = (1e-10, 1e-5)
    """Of `error`, in float64 and in float32."""
    reason: str = ""
    """Why it differs, and what that does."""


LUCID = "EnVision-Research/LucidDreamer 2ecf093"
STUDIO = "threestudio-project/threestudio 28d9d80"
MULTI = "DSaurus/threestudio-mvdream 0c7a594"
CLASSIFIER = "CVMI-Lab/Classifier-Score-Distillation 5c65ca7"
RELEASED = "ai4imaging/vlm3d 0c1943d"

ROWS = (
    Row(
        "recon: x0-reconstruction, guided and rescaled by groups, with its gradient",
        "MVDream, arXiv 2308.16512, section 3.4",
        f"{MULTI}, guidance/mvdream_guidance.py, `__call__`; it adds 1e-8 to both deviations",
        mvdream,
        (1e-8, 1e-5),
    ),
    Row(
        "sds: w(t) (eps_hat - eps), weights sds, uniform and fantasia3d, with and without Perp-Neg",
        "DreamFusion, arXiv 2209.14988, eq. 3",
        f"{STUDIO}, models/guidance/stable_diffusion_guidance.py, `compute_grad_sds`",
        sds,
    ),
    Row(
        "ism: inversion under the empty prompt, intervals from 100 to 80, the sum over all views",
        "LucidDreamer, arXiv 2311.11284, section 3.2",
        f"{LUCID}, guidance/sd_utils.py, `train_step`",
        ism,
    ),
    Row(
        "vsd: w(t) (eps_hat - eps_lora), a LoRA of epsilon or v prediction, guided by its camera alone",
        "ProlificDreamer, arXiv 2305.16213, eq. 9",
        f"{STUDIO}, models/guidance/stable_diffusion_vsd_guidance.py, `compute_grad_vsd`",
        vsd,
    ),
    Row(
        "csd: w(t) (eps(y) - eps(other)), the other text negative or empty, with and without Perp-Neg",
        "CSD, arXiv 2310.19415, section 4",
        f"{CLASSIFIER}, guidance/stable_diffusion_triple_guidance.py, `compute_grad_sds`",
        csd,
    ),
    Row(
        "Perp-Neg with several negatives",
        "Perp-Neg, arXiv 2304.04968",
        f"{LUCID}, guidance/perpneg_utils.py, `weighted_perpendicular_aggregator`",
        perp_neg,
    ),
    Row(
        "DDIM steps from epsilon, v and sample predictions",
        "DDIM, arXiv 2010.02502, eq. 12",
        "diffusers, DDIMScheduler, called in the test",
        ddim,
    ),
    Row(
        "rescaling of the guided prediction",
        "arXiv 2305.08891, eq. 14 to 16",
        "diffusers, `rescale_noise_cfg`, called in the test",
        rescale,
    ),
    Row(
        "noise levels and network timesteps of rectified flow with shift 3",
        "SD3, arXiv 2403.03206, eq. 23",
        "diffusers, FlowMatchEulerDiscreteScheduler, called in the test; it holds float32",
        flow,
        (1e-6, 1e-6),
    ),
    Row(
        "chains by DPM-Solver++ (2M) between the same timesteps",
        "arXiv 2211.01095, algorithm 2",
        "diffusers, DPMSolverMultistepScheduler, called in the test; its levels are float32",
        dpm_solver,
        (1e-6, 1e-5),
    ),
    Row(
        "Adam",
        "arXiv 1412.6980, algorithm 1",
        "torch.optim.Adam, called in the test",
        adam,
    ),
    Row(
        "vsd: the LoRA's layers on a multi-view network, which runs in float32",
        "ProlificDreamer, arXiv 2305.16213, section 4.2",
        "peft, `inject_adapter_in_model`, called in the test",
        lora,
        (1e-5, 1e-5),
    ),
    Row(
        "the critic's pictures as patches",
        "Qwen2-VL, arXiv 2409.12191, section 2.1",
        "transformers, Qwen2VLImageProcessorPil, called in the test; it works in float32",
        qwen,
        (1e-6, 1e-6),
    ),
    Row(
        "renderer: centres, inverse covariances, depths and colours of degree 3, and the gradients of all parameters",
        "3D Gaussian Splatting, section 4; Zwicker et al. 2001",
        "gsplat 1.5.3, cuda/_torch_impl.py, whose harmonics have eight digits; called in the test where installed. "
        "float64: our definition, float32: the compiled renderer",
        projection,
        (1e-7, 1e-5),
    ),
    Row(
        "renderer, antialiased: the opacity's factor and its gradients",
        "Mip-Splatting, arXiv 2311.16493, eq. 9",
        "the same, `calc_compensations`",
        antialiasing,
        (1e-7, 1e-5),
    ),
    Row(
        "sdi: inversion along 0, 100, 200, ... up to t",
        "SDI, arXiv 2405.15891",
        f"{STUDIO}, models/guidance/stable_diffusion_sdi_guidance.py, `compute_grad_sdi`",
        reason="The published inversion begins with one more evaluation, at timestep -100 or what its schedule makes "
        "of that; ours begins at 0. Its random part of a step and its fresh noise (eta 0.3) are left out. The first "
        "alone moves the residual by {sdi:.1%} at most in the fixture.",
    ),
    Row(
        "sdi: reduction",
        "SDI, arXiv 2405.15891",
        f"{STUDIO}, the same file",
        reason="Published is a mean over the latent's values, ours a sum like that of the other losses: a factor of "
        "16,384 at 4 x 64 x 64, so that weights beside regularizers mean the same for every loss. "
        "`prior.reduction=mean` is the published one.",
    ),
    Row(
        "guidance scale of sds, csd, vsd and sdi",
        "Ho and Salimans, arXiv 2207.12598",
        f"{STUDIO}, the guidances without Perp-Neg",
        reason="threestudio's counts from the prompt's prediction, ours from the unconditional one, as in the paper "
        "and in MVDream: its 100 is our 101 (and 7.5 is 8.5).",
    ),
    Row(
        "Perp-Neg: which latents a negative is predicted for",
        "Perp-Neg, arXiv 2304.04968",
        f"{STUDIO}, models/guidance/stable_diffusion_guidance.py, `compute_grad_sds`",
        reason="Ours: those of its own view. threestudio's, for more than one view a step, pairs the negatives of a "
        "view with the latents of others (the texts are ordered by views, the latents by copies), which moves the "
        "residual of three views by {pairing:.0%} in the fixture. The row above compares steps of one view.",
    ),
    Row(
        "csd: which text is subtracted",
        "CSD, arXiv 2310.19415, section 4",
        f"{CLASSIFIER}, configs/csd-sd-refine.yaml, csd-if.yaml",
        reason="Published schedules move from the empty text to the negative one in the first stage, and from the "
        "negative one to half of each in the second. Ours subtracts one text throughout, `prior.negative_prompt`, "
        "empty or not, so that a step needs two predictions, not three: equal where theirs begin, and at the end of "
        "the second stage the residual differs by {csd:.0%} in the fixture. Our guidance scale multiplies it; Adam "
        "divides such a factor out.",
    ),
    Row(
        "MVDream's cameras and noise levels: recipe sds",
        "MVDream, arXiv 2308.16512",
        f"{MULTI}, data/uncond_multiview.py, configs/mvdream-sd21-shading.yaml",
        reason="Equal in the recipes `sds` and `vlm3d-paper` (elevations' mean 12.3 degrees, 82 % below 19.5, "
        "half-extents 0.8 to 1, noise levels' end at 80 % and at 40 %), but for one coin a group where theirs is one "
        "a step. The preset `mvdream` fits pictures instead and keeps its own cameras (half-extents 1.03 to 1.32), "
        "so that the whole object is in each of them: it appears 1.31 times smaller in the mean.",
    ),
    Row(
        "VLM3D's reward: schedule, message, groups in one message, resolution",
        "VLM3D, arXiv 2509.15772",
        f"{RELEASED}, custom/threestudio-mvdream/configs/mvdream-sd21-shading.yaml, configs/dreamfusion-sd.yaml",
        reason="Equal in the recipe `vlm3d-paper`, but for the words of the question, which are ours "
        "(`critic.questions.joint_text` takes another text), the backgrounds, the scene (Gaussians, not a NeRF) and "
        "its learning rates, and the loss of `sd` and `sdxl`, which stays ISM with its weight of 0.1; the reward's "
        "weight is scaled by that, so it begins at 9, not at 90.",
    ),
    Row(
        "latents: mean or sample of the encoder's distribution",
        "all",
        f"{STUDIO}, {LUCID}, {MULTI}, `encode_images`",
        reason="Sampled, as published, in `sd`, `sdxl` and the recipes `sds` and `vlm3d-paper` on `mvdream`; the "
        "mean elsewhere, since chains need no noise there. The embedded prior's encoder has no distribution. A "
        "deviation s of the encoder multiplies the noise by sqrt(1 + (s alpha / sigma)^2): by 1.003 for s = 0.01 at "
        "the least noise, timestep 20 of 1,000.",
    ),
    Row(
        "VSD: text of the LoRA",
        "ProlificDreamer, arXiv 2305.16213, section 4.2",
        f"{STUDIO}, models/guidance/stable_diffusion_vsd_guidance.py",
        reason="Equal: the prompt without a view, since the LoRA is given the camera. The LoRA's rank and its "
        "network are ours (the prior's own; theirs is Stable Diffusion 2.1 with v prediction).",
    ),
    Row(
        "Adam's decay of the mean square",
        "arXiv 1412.6980",
        "gsplat's and DreamGaussian's trainers: 0.999; threestudio's NeRFs: 0.99",
        reason="0.999 in the presets of large models, whose learning rates are DreamGaussian's. 0.99 in `mini`, with "
        "which its figures were found; with 0.999 the run of the log ends at a fitting loss of 24.20, not 24.12.",
    ),
    Row(
        "densification: order of growing and pruning",
        "3D Gaussian Splatting, section 5.2",
        "gsplat 1.5.3, strategy/default.py",
        reason="`densify.prune=after`, gsplat's order, in the presets of large models; before in `mini`, whose figures "
        "were found with it. It matters for Gaussians above `prune_scale` only; with `after` the run of the log ends "
        "at a fitting loss of 24.05 in place of 24.12.",
    ),
    Row(
        "densification: unit of the screen gradients",
        "3D Gaussian Splatting, section 5.2",
        "gsplat 1.5.3, strategy/default.py",
        reason="Equal: times half of width and height and the number of cameras. We grow a share of the Gaussians, "
        "not those above a threshold, which would depend on prior, guidance scale and weight.",
    ),
    Row(
        "densification: reset of opacities",
        "3D Gaussian Splatting, section 5.2",
        "gsplat 1.5.3, strategy/ops.py, `reset_opa`; LucidDreamer, every 300 of 5,000 steps",
        reason="`densify.reset_every`, off in every preset, LucidDreamer's included: of the schedules of distillation "
        "that we know, it alone has one. At LucidDreamer's interval, 0.06 of the run, the run of the log ends at a "
        "fitting loss of 23.99 in place of 24.12, and a quarter of its sphere is dented, where nothing was.",
    ),
    Row(
        "mcmc: Adam's moments after a round",
        "arXiv 2404.09591",
        "gsplat 1.5.3, strategy/ops.py, `relocate` and `sample_add`",
        reason="gsplat zeroes those of the Gaussians that others were moved to, keeps those of the moved ones at "
        "their old places, and keeps those of the ones that were added to. Here whatever changed its opacity or "
        "size, or is new, starts at zero: the old moments belong to another shape. Its first step is then 3.2 learning "
        "rates long at a decay of 0.999 (1 at 0.99), as in gsplat for those it zeroes; the others go on with steps of "
        "up to 1 in the old direction. No preset uses `mcmc`.",
    ),
    Row(
        "selective Adam",
        "Taming 3DGS, arXiv 2406.15643",
        "gsplat 1.5.3, SelectiveAdam",
        reason="Ours corrects the moments' bias as Adam does, gsplat's does not: in its first step it moves a "
        "Gaussian by a tenth over the root of a thousandth, 3.2 times the learning rate. No run uses it.",
    ),
    Row(
        "renderer: far plane",
        "3D Gaussian Splatting",
        "gsplat 1.5.3, far_plane 1e10",
        reason="Ours drops depths from 1e35 on. The object lies within the unit ball and cameras at a distance of "
        "100 at most, so neither ever acts.",
    ),
    Row(
        "renderer: antialiasing",
        "Mip-Splatting, arXiv 2311.16493",
        "gsplat 1.5.3, rasterize_mode",
        reason="`render.rasterize_mode` is `classic` in every preset, 3D Gaussian Splatting's own: opacities are not "
        "compensated for the dilation of 0.3 square pixels. A Gaussian of one pixel's width then covers 1.3 times what "
        "it should, one of ten pixels 1.003.",
    ),
)

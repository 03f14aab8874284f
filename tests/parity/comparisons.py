"""The greatest difference of each formula from its source, in the precision that is asked for.

Against values that the source's own code gave (fixtures, made outside of this project and none of that code in it), or
against an installed library, called here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs.config import PriorConfig
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.critic.qwen.preprocess import PatchLayout, to_patches
from vlm3d_gs.prior.chain import denoise
from vlm3d_gs.prior.losses import DistillationStep, loss_named, rescaled, target_loss
from vlm3d_gs.prior.noise import NoiseSchedule, add_noise, clean_and_noise, flow_schedule
from vlm3d_gs.prior.perp_neg import perp_neg_guidance
from vlm3d_gs.prior.prediction import Prediction, Predictor, as_prediction, classifier_free_guidance

FIXTURES = Path(__file__).parent / "fixtures"


def fixture(name: str) -> dict[str, Any]:
    return dict(json.loads((FIXTURES / f"{name}.json").read_text()))


def greatest(found: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    return float((found.detach().double() - expected).abs().max() / expected.abs().max())


def stable_diffusion(dtype: torch.dtype) -> NoiseSchedule:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1.0 - betas).cumprod(0)
    return NoiseSchedule(
        alphas.sqrt().to(dtype), (1.0 - alphas).sqrt().to(dtype), torch.arange(1000), "epsilon"
    )


class LinearNetwork:
    """The network with which the fixtures were made: a mix of channels, and a bias for each text."""

    def __init__(self, data: dict[str, Any], dtype: torch.dtype) -> None:
        self.mix, self.bias = (torch.tensor(data[name], dtype=dtype) for name in ("mix", "bias"))
        self.schedule = stable_diffusion(dtype)

    def noise(self, noisy: Tensor, timesteps: Tensor, text: int) -> Tensor:
        growth = (1.0 + timesteps.to(noisy.dtype) / 1000.0)[:, None, None, None]
        mixed = torch.einsum("ij,bjhw->bihw", self.mix, noisy)
        return mixed * growth + self.bias[text][None, :, None, None]

    def predictor(
        self, scale: float, negatives: Tensor | None = None, uncond: int = 0
    ) -> Predictor:
        """Guided; texts: 0 unconditional, 1 the prompt, 2 and 3 other views. negatives: their weights [B, 2]."""
        rows = [uncond, *range(1, min(4, len(self.bias)))]

        def predict(noisy: Tensor, timesteps: Tensor) -> Prediction:
            uncond, text, *others = (self.noise(noisy, timesteps, row) for row in rows)
            guided = classifier_free_guidance(uncond, text, scale)
            if negatives is not None:
                weights = negatives.to(noisy.dtype)
                guided = perp_neg_guidance(uncond, text, torch.stack(others), weights, scale)
            return as_prediction(self.schedule, noisy, timesteps, guided, text, uncond)

        return predict

    def alone(self, row: int) -> Predictor:
        def predict(noisy: Tensor, timesteps: Tensor) -> Prediction:
            output = self.noise(noisy, timesteps, row)
            return as_prediction(self.schedule, noisy, timesteps, output, output, output)

        return predict


def gradient(
    network: LinearNetwork,
    predictor: Predictor,
    case: dict[str, Any],
    timesteps: Tensor,
    n_views: int = 1,
    inversion: Predictor | None = None,
    lora: Callable[[Tensor], tuple[Tensor, float]] | None = None,
    **settings: object,
) -> Tensor:
    """The gradient of one of our losses on the latents of a case."""
    dtype = network.mix.dtype
    latents = torch.tensor(case["latents"], dtype=dtype, requires_grad=True)
    noise = torch.tensor(case.get("noise", case["latents"]), dtype=dtype)
    config = PriorConfig(**settings)  # type: ignore[arg-type]
    step = DistillationStep(
        config, 0.0, network.schedule, latents.detach(), noise, timesteps, n_views, predictor,
        inversion or predictor, lora,
    )  # fmt: skip
    loss = target_loss(latents, loss_named(config.loss).target(step), config.reduction)
    (found,) = torch.autograd.grad(config.weight(0.0) * loss, latents)
    return found


def mvdream(dtype: torch.dtype) -> float:
    data = fixture("mvdream")
    network, errors = LinearNetwork(data, dtype), []
    for case in data["cases"]:
        timesteps = torch.full((len(case["latents"]),), case["timestep"])
        predictor = network.predictor(case["guidance_scale"])
        found = gradient(
            network, predictor, case, timesteps, case["n_views"], loss="recon",
            rescale=case["rescale"],
        )  # fmt: skip
        errors.append(greatest(found, torch.tensor(case["gradient"], dtype=torch.float64)))
    return max(errors)


def sds(dtype: torch.dtype) -> float:
    data = fixture("sds")
    network, errors = LinearNetwork(data, dtype), []
    for case in data["cases"]:
        negatives = torch.tensor(case["weights"], dtype=dtype) if case["perp_neg"] else None
        scale = case["published_scale"] + (0.0 if case["perp_neg"] else 1.0)
        found = gradient(
            network, network.predictor(scale, negatives), case, torch.tensor(case["timesteps"]),
            loss="sds", weighting=case["weighting"], reduction="sum",
        )  # fmt: skip
        errors.append(greatest(found, torch.tensor(case["gradient"], dtype=torch.float64)))
    return max(errors)


def pairing_difference() -> float:
    """The greatest difference of Perp-Neg for several views, relative to the published residual."""
    data = fixture("pairing")
    network, (case,) = LinearNetwork(data, torch.float64), data["cases"]
    negatives = torch.tensor(case["weights"], dtype=torch.float64)
    found = gradient(
        network, network.predictor(case["guidance_scale"], negatives), case,
        torch.tensor(case["timesteps"]), loss="sds", reduction="sum",
    )  # fmt: skip
    return greatest(found, torch.tensor(case["gradient"], dtype=torch.float64))


def ism(dtype: torch.dtype) -> float:
    data = fixture("ism")
    network, errors = LinearNetwork(data, dtype), []
    for case in data["cases"]:
        timesteps = torch.full((len(case["latents"]),), case["timestep"])
        found = gradient(
            network, network.predictor(case["guidance_scale"]), case, timesteps,
            inversion=network.alone(4), loss="ism", reduction="sum",
            weight=constant(case["published_weight"]),
            inversion_interval=constant(case["interval"] / 1000.0),
            inversion_steps=1000 // case["stride"],
        )  # fmt: skip
        errors.append(greatest(found, torch.tensor(case["gradient"], dtype=torch.float64)))
    return max(errors)


def sdi_difference() -> float:
    """The greatest difference of our target from the published one, relative to the residual."""
    data = fixture("sdi")
    network, errors = LinearNetwork(data, torch.float64), []
    for case in data["cases"]:
        timesteps = torch.tensor([case["timestep"]])
        found = gradient(network, network.predictor(7.5), case, timesteps, loss="sdi")
        latents = torch.tensor(case["latents"], dtype=torch.float64)
        published = latents - torch.tensor(case["result"], dtype=torch.float64)
        errors.append(greatest(found, published))
    return max(errors)


def vsd(dtype: torch.dtype) -> float:
    """The second network of the fixture stands for the LoRA."""
    data = fixture("vsd")
    network, errors = LinearNetwork(data, dtype), []
    second = LinearNetwork({"mix": data["lora_mix"], "bias": data["lora_bias"]}, dtype)
    for case in data["cases"]:
        timesteps = torch.tensor(case["timesteps"])
        schedule = replace(second.schedule, prediction_type=case["lora_prediction"])

        def lora(
            noisy: Tensor,
            timesteps: Tensor = timesteps,
            schedule: NoiseSchedule = schedule,
        ) -> tuple[Tensor, float]:
            output = second.noise(noisy, timesteps, 0)
            return clean_and_noise(schedule, output, noisy, timesteps)[1], 0.0

        found = gradient(
            network, network.predictor(case["guidance_scale"]), case, timesteps, lora=lora,
            loss="vsd", reduction="sum",
        )  # fmt: skip
        errors.append(greatest(found, torch.tensor(case["gradient"], dtype=torch.float64)))
    return max(errors)


def csd_errors(dtype: torch.dtype) -> list[tuple[list[float], float]]:
    """The error of each case of the fixture, with the published scales of prompt, negative and empty text.

    Ours has one text to compare with: the negative one where its scale is not 0, else the empty one.
    """
    data = fixture("csd")
    network, errors = LinearNetwork(data, dtype), []
    for case in data["cases"]:
        negatives = torch.tensor(case["weights"], dtype=dtype) if case["perp_neg"] else None
        base = network.predictor(1.0, negatives, uncond=0 if case["scales"][1] else 4)
        found = gradient(
            network, base, case, torch.tensor(case["timesteps"]), loss="csd", reduction="sum"
        )
        expected = torch.tensor(case["gradient"], dtype=torch.float64)
        errors.append((case["scales"], greatest(found, expected)))
    return errors


def csd(dtype: torch.dtype) -> float:
    """Where one text is compared with, which is what ours can do."""
    return max(error for scales, error in csd_errors(dtype) if 0 in scales)


def csd_difference() -> float:
    """The same where the published residual is half over each of two texts."""
    return max(error for scales, error in csd_errors(torch.float64) if 0 not in scales)


def perp_neg(dtype: torch.dtype) -> float:
    data = fixture("perp_neg")
    differences, weights = (
        torch.tensor(data[name], dtype=dtype) for name in ("differences", "weights")
    )
    zero = torch.zeros_like(differences[0])
    found = perp_neg_guidance(zero, differences[0], differences[1:], weights[1:].T, 1.0)
    return greatest(found, torch.tensor(data["result"], dtype=torch.float64))


def draws(dtype: torch.dtype, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [
        torch.randn(4, 4, 3, 3, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(count)
    ]


def ddim(dtype: torch.dtype) -> float:
    """Steps of diffusers' scheduler for each kind of prediction."""
    from diffusers import DDIMScheduler

    output, noisy = draws(dtype, 2)
    now, after, errors = torch.full((4,), 600), torch.full((4,), 500), []
    for kind in ("epsilon", "v_prediction", "sample"):
        scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            prediction_type=kind,
        )  # fmt: skip
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.set_timesteps(10)
        expected = scheduler.step(output.double(), 600, noisy.double()).prev_sample
        alphas = scheduler.alphas_cumprod
        levels = (alphas.sqrt().to(dtype), (1.0 - alphas).sqrt().to(dtype))
        schedule = NoiseSchedule(*levels, torch.arange(1000), kind)  # type: ignore[arg-type]
        clean, noise = clean_and_noise(schedule, output, noisy, now)
        errors.append(greatest(add_noise(schedule, clean, noise, after), expected))
    return max(errors)


def rescale(dtype: torch.dtype) -> float:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    guided, text = draws(dtype, 2)
    expected = rescale_noise_cfg(5.0 * guided.double(), text.double(), 0.7)
    return greatest(rescaled(5.0 * guided, text, 0.7, 1), expected)


def flow(dtype: torch.dtype) -> float:
    """SD3's noise levels and the timesteps that its network receives."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = flow_schedule(1000, 3.0)
    return max(
        greatest(schedule.sigma.flip(0), scheduler.sigmas),
        greatest(schedule.network_timesteps.flip(0), scheduler.timesteps),
    )


def dpm_solver(dtype: torch.dtype) -> float:
    """A chain by DPM-Solver++ 2M between the timesteps that our chain asks at."""
    from diffusers import DPMSolverMultistepScheduler

    (noisy,) = draws(dtype, 1)
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", lower_order_final=False
    )
    for name in ("alphas_cumprod", "alpha_t", "sigma_t", "lambda_t"):
        setattr(scheduler, name, getattr(scheduler, name).double())
    stops = [800, 600, 400, 200]
    scheduler.set_timesteps(timesteps=stops)
    alphas = scheduler.alphas_cumprod
    scheduler.sigmas = torch.tensor(
        [float(((1 - alphas[t]) / alphas[t]).sqrt()) for t in stops] + [0.0]
    ).double()
    schedule = NoiseSchedule(
        alphas.sqrt().to(dtype), (1.0 - alphas).sqrt().to(dtype), torch.arange(1000), "epsilon"
    )

    def network(latents: Tensor) -> Tensor:
        return 0.3 * latents.flip(1) + 0.1

    def predictor(latents: Tensor, timesteps: Tensor) -> Prediction:
        output = network(latents)
        return as_prediction(schedule, latents, timesteps, output, output, output)

    found = denoise(predictor, schedule, noisy, 800, 4, solver="dpm++").clean_pred
    sample = noisy.double()
    for stop in stops[:-1]:
        sample = scheduler.step(network(sample), stop, sample).prev_sample
    last = scheduler.convert_model_output(network(sample), sample=sample)
    return greatest(found, last)


def adam(dtype: torch.dtype) -> float:
    """The operation that our optimiser calls, beside torch's own class."""
    gradients = draws(dtype, 5)
    ours, theirs = torch.zeros_like(gradients[0]), torch.zeros_like(gradients[0].double())
    theirs.requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99), eps=1e-15)
    mean, square, count = torch.zeros_like(ours), torch.zeros_like(ours), torch.zeros(())
    for gradient_now in gradients:
        theirs.grad = gradient_now.double()
        optimizer.step()
        count += 1.0
        torch._fused_adam_(
            [ours], [gradient_now], [mean], [square], [], [count], lr=0.01, beta1=0.9, beta2=0.99,
            weight_decay=0.0, eps=1e-15, amsgrad=False, maximize=False,
        )  # fmt: skip
    return greatest(ours, theirs.detach())


def qwen(dtype: torch.dtype) -> float:
    """Patches of transformers' own processor, in which pictures are bytes and the arithmetic is float32."""
    import numpy as np
    from transformers import Qwen2VLImageProcessorPil

    layout = PatchLayout()
    generator = torch.Generator().manual_seed(5)
    size = (2, 3 * layout.factor, 5 * layout.factor, 3)
    levels = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 10**7})
    expected = processor(images=[np.asarray(item) for item in levels], return_tensors="np")
    found, _ = to_patches(levels.to(dtype) / 255.0, layout)
    return greatest(found, torch.as_tensor(expected["pixel_values"]))


def lora(dtype: torch.dtype) -> float:
    """An adapter's prediction beside peft's own layers on a copy of the network, with the same weights."""
    from peft import LoraConfig, inject_adapter_in_model

    from small_denoisers import Batch, make
    from vlm3d_gs.prior.lora import ADAPTER_NAME, TARGET_MODULES, ScoreAdapter

    # The multi-view network has cameras of its own, so that the adapter is peft's layers and nothing else.
    batch, denoiser, witness = Batch(), make("multiview"), make("multiview")
    adapter = ScoreAdapter(denoiser, seed=1, rank=2, alpha=3.0)
    config = LoraConfig(r=2, lora_alpha=3.0, target_modules=TARGET_MODULES)
    inject_adapter_in_model(config, witness.network, ADAPTER_NAME)
    theirs = dict(witness.network.named_parameters())
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, weight in adapter.parameters.items():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
            theirs[f"{name}.{ADAPTER_NAME}.weight"].copy_(weight)
        expected = batch.base(witness)
        found = batch.adapted(adapter)[1]
    return greatest(
        found, clean_and_noise(witness.noise_schedule, expected, batch.noisy, batch.timesteps)[1]
    )

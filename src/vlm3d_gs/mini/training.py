"""The loop that trains every embedded model: seeded, resumable, with an exponential moving average.

A training is a function `loss(step) -> (loss, scalars)` over a dict of modules. What batch a step sees follows from the
seed and the step alone, so a run that was cut and resumed sees what an uncut run would have seen.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LossFunction = Callable[[int], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How long and how fast one model is trained."""

    steps: int
    """Optimiser steps in all, counted over resumed runs."""
    lr: float
    """Peak learning rate of AdamW."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises linearly from 0."""
    decay_fraction: float = 0.3
    """Last fraction of the run over which the learning rate falls linearly to 2 % of the peak."""
    ema_decay: float = 0.998
    """Decay a step of the average that is published; ramped up from the start of the run."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    clip_norm: float = 1.0
    """Largest gradient norm over all parameters."""
    save_every_s: float = 120.0
    """Seconds between checkpoints."""

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, linear decay."""
        left = (self.steps - step) / max(self.steps * self.decay_fraction, 1.0)
        return self.lr * min(1.0, (step + 1) / self.warmup_steps, max(left, 0.02))


def published(modules: Mapping[str, nn.Module], folder: Path) -> bool:
    """Load the averaged weights of a checkpoint into `modules`; False if there is no checkpoint."""
    path = folder / "state.safetensors"
    if not path.exists():
        return False
    state = load_file(path)
    for name, parameter in _parameters(modules).items():
        parameter.data.copy_(state[f"ema.{name}"])
    return True


def fit(
    modules: Mapping[str, nn.Module],
    loss: LossFunction,
    plan: TrainingPlan,
    folder: Path,
    log: Callable[[str], None],
) -> None:
    """Train until `plan.steps`, going on from the checkpoint in `folder` if there is one.

    Args:
        modules: trained modules by name; those parameters with requires_grad are trained.
        loss: step -> scalar loss with graph, and scalars to log.
        plan: length and rates.
        folder: where `state.safetensors` and `progress.jsonl` are kept.
        log: called with a line of progress.

    Side effects: modules hold the averaged weights at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {name: p for name, p in _parameters(modules).items() if p.requires_grad}
    ema = {name: p.detach().clone() for name, p in _parameters(modules).items()}
    decayed = [p for p in parameters.values() if p.ndim > 1]
    plain = [p for p in parameters.values() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.98), fused=True)
    step = _load(folder, modules, ema, optimizer, parameters)
    began, saved, first, sums = time.monotonic(), time.monotonic(), step, {}
    for step in range(step, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr_at(step)
        value, scalars = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        norm = nn.utils.clip_grad_norm_(list(parameters.values()), plan.clip_norm)
        if bool(torch.isfinite(norm)):
            optimizer.step()
        decay = min(plan.ema_decay, (step + 1) / (step + 10))
        live = _parameters(modules)
        torch._foreach_lerp_(list(ema.values()), [live[name].detach() for name in ema], 1.0 - decay)
        for key, item in {"loss": float(value.detach()), "grad_norm": float(norm.detach()), **scalars}.items():
            total, count = sums.get(key, (0.0, 0))
            sums[key] = (total + item, count + 1)
        if (step + 1) % 100 == 0 or step + 1 == plan.steps:
            means = {key: total / count for key, (total, count) in sums.items()}
            rate = (step + 1 - first) / (time.monotonic() - began)
            row = {"step": step + 1, "steps_per_s": round(rate, 3), **{k: round(v, 5) for k, v in means.items()}}
            with (folder / "progress.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            log(f"{step + 1}/{plan.steps} " + " ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "step"))
            sums = {}
        if time.monotonic() - saved > plan.save_every_s or step + 1 == plan.steps:
            _save(folder, step + 1, modules, ema, optimizer, parameters)
            saved = time.monotonic()
    for name, parameter in _parameters(modules).items():
        parameter.data.copy_(ema[name])


def _parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {f"{key}.{name}": p for key, module in modules.items() for name, p in module.named_parameters()}


def _save(
    folder: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    ema: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, nn.Parameter],
) -> None:
    tensors = {f"live.{name}": p.detach().contiguous() for name, p in _parameters(modules).items()}
    tensors |= {f"ema.{name}": value.contiguous() for name, value in ema.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value.contiguous()
    draft = folder / "state.safetensors.draft"
    save_file({key: value.clone() for key, value in tensors.items()}, draft, metadata={"step": str(step)})
    os.replace(draft, folder / "state.safetensors")
    (folder / "step.json").write_text(json.dumps({"step": step}))


def _load(
    folder: Path,
    modules: Mapping[str, nn.Module],
    ema: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, nn.Parameter],
) -> int:
    """Restore a checkpoint in place; a parameter that it lacks keeps its fresh value. Return the next step."""
    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    state = load_file(path)
    for name, parameter in _parameters(modules).items():
        if f"live.{name}" in state:
            parameter.data.copy_(state[f"live.{name}"])
            ema[name].copy_(state[f"ema.{name}"])
    for name, parameter in parameters.items():
        kept = {key: state[f"optimizer.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer.{key}.{name}" in state}
        if kept:
            optimizer.state[parameter] = kept
    return int(json.loads((folder / "step.json").read_text())["step"])

"""The loop that trains every embedded model: seeded, resumable, with an exponential moving average.

A training is two functions over a dict of modules: `draw(step)` makes the batch of a step on the CPU, in worker
processes where they are asked for, and `loss(batch, step)` returns the loss and scalars to log. What batch a step sees
follows from the seed and the step alone, so a run that was cut and resumed sees what an uncut run would have seen.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

MUON_LR_FACTOR = 5.0
"""Learning rate of the matrices against that of everything else."""
PREFETCHED_BATCHES = 3
"""Batches that each worker prepares before they are asked for."""
Batch = TypeVar("Batch")
Scalars = dict[str, float | Tensor]
"""What a step reports. Tensors stay on their device until a line is logged, so that no step waits for them."""


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
    scenes_per_step: int = 8
    """Scenes of one batch."""
    clip_norm: float = 1.0
    """Largest gradient norm over all parameters."""
    save_every_s: float = 120.0
    """Seconds between checkpoints."""
    limit_s: float = math.inf
    """Seconds after which a call ends, whatever its steps. The learning rate then falls by the clock, and such a run
    does not repeat exactly."""
    workers: int = 0
    """Processes that draw batches; 0 draws them in this one."""

    def lr_at(self, step: int, elapsed_s: float = 0.0) -> float:
        """Learning rate of a step, `elapsed_s` after this call began: linear warm-up, constant, linear decay."""
        left = 1.0 - max(step / self.steps, elapsed_s / self.limit_s)
        decay = left / max(self.decay_fraction, 1.0 / self.steps)
        return self.lr * min(1.0, (step + 1) / self.warmup_steps, max(decay, 0.02))


def load_averaged(modules: Mapping[str, nn.Module], folder: Path) -> bool:
    """Load the averaged weights of a checkpoint into `modules`; False if there is no checkpoint."""
    path = folder / "state.safetensors"
    if not path.exists():
        return False
    state = load_file(path)
    for name, parameter in _parameters(modules).items():
        parameter.data.copy_(state[f"ema.{name}"])
    return True


def new_optimizers(
    parameters: Mapping[str, nn.Parameter], plan: TrainingPlan
) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the networks, and AdamW for everything else.

    Small transformers trained from nothing spend long at chance under Adam; orthogonalised momentum (Jordan et al.
    2024, Muon; learning rate matched to Adam's update size as in Liu et al. 2025, arXiv 2502.16982) shortens that.
    """
    matrices, decayed, plain = [], [], []
    for name, parameter in parameters.items():
        if parameter.ndim == 2 and not any(part in name for part in ("embed", "heads.", "lm_head")):
            matrices.append(parameter)
        elif parameter.ndim > 1:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": plan.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=plan.lr,
            betas=(0.9, 0.98),
            fused=True,
        )
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=plan.lr,
                momentum=0.95,
                weight_decay=plan.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


class _Steps(Dataset[Batch]):
    """The batches of some steps, for a loader's worker processes."""

    def __init__(self, draw: Callable[[int], Batch], first: int, last: int) -> None:
        self.draw, self.first, self.last = draw, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Batch:
        return self.draw(self.first + index)


def batches(draw: Callable[[int], Batch], first: int, last: int, workers: int) -> Iterator[Batch]:
    """Yield `draw(step)` of the steps from `first` up to but without `last`, in order.

    Args:
        draw: makes one step's batch; with workers it must be picklable.
        first: step to begin with.
        last: step to end before.
        workers: processes that draw ahead; 0 draws here. The batches are the same.
    """
    if workers == 0 or last <= first:
        return (draw(step) for step in range(first, last))
    loader = DataLoader(
        _Steps(draw, first, last),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        prefetch_factor=PREFETCHED_BATCHES,
        multiprocessing_context="spawn",  # a fork would copy the state of Numba's and CUDA's threads
    )
    return iter(loader)


def _unchanged(batch: Batch) -> Batch:
    return batch


def mixed_precision(device: str) -> ExitStack:
    """Return a context of bfloat16 arithmetic with the attention kernel that is fastest on the device.

    On a CPU that is the plain one: torch's fused attention was slower there at these sizes
    (docs/log/embedded-prior.md).
    """
    stack = ExitStack()
    stack.enter_context(torch.autocast(device, torch.bfloat16))
    if device == "cpu":
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    return stack


def fit(
    modules: Mapping[str, nn.Module],
    draw: Callable[[int], Batch],
    loss: Callable[[Batch, int], tuple[Tensor, Scalars]],
    plan: TrainingPlan,
    folder: Path,
    log: Callable[[str], None],
) -> None:
    """Train until `plan.steps`, going on from the checkpoint in `folder` if there is one.

    Args:
        modules: trained modules by name; those parameters with requires_grad are trained.
        draw: step -> batch, on the CPU; picklable where the plan has workers.
        loss: batch, step -> scalar loss with graph, and scalars to log.
        plan: length and rates.
        folder: where `state.safetensors` and `progress.jsonl` are kept.
        log: called with a line of progress.

    Side effects: modules hold the averaged weights at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {name: p for name, p in _parameters(modules).items() if p.requires_grad}
    ema = {name: p.detach().clone() for name, p in _parameters(modules).items()}
    optimizers = new_optimizers(parameters, plan)
    first = _load(folder, modules, ema, optimizers, parameters)
    began = saved = time.monotonic()
    sums: dict[str, tuple[float | Tensor, int]] = {}
    for step, batch in enumerate(batches(draw, first, plan.steps, plan.workers), first):
        value, scalars = loss(batch, step)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            factor = MUON_LR_FACTOR if isinstance(optimizer, torch.optim.Muon) else 1.0
            for group in optimizer.param_groups:
                group["lr"] = factor * plan.lr_at(step, time.monotonic() - began)
        value.backward()
        norm = nn.utils.clip_grad_norm_(list(parameters.values()), plan.clip_norm)
        if bool(torch.isfinite(norm)):
            for optimizer in optimizers:
                optimizer.step()
        decay = min(plan.ema_decay, (step + 1) / (step + 10))
        live = _parameters(modules)
        torch._foreach_lerp_(list(ema.values()), [live[name].detach() for name in ema], 1.0 - decay)
        for key, item in {
            "loss": value.detach(),
            "grad_norm": norm.detach(),
            **scalars,
        }.items():
            total, count = sums.get(key, (0.0, 0))
            sums[key] = (total + item, count + 1)
        last = step + 1 == plan.steps or time.monotonic() - began > plan.limit_s
        if (step + 1) % 100 == 0 or last:
            means = {key: float(total) / count for key, (total, count) in sums.items()}
            rate = (step + 1 - first) / (time.monotonic() - began)
            row = {
                "step": step + 1,
                "steps_per_s": round(rate, 3),
                **{k: round(v, 5) for k, v in means.items()},
            }
            with (folder / "progress.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            log(
                f"{step + 1}/{plan.steps} "
                + " ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "step")
            )
            sums = {}
        if time.monotonic() - saved > plan.save_every_s or last:
            _save(folder, step + 1, modules, ema, optimizers, parameters)
            saved = time.monotonic()
        if last:
            break
    for name, parameter in _parameters(modules).items():
        parameter.data.copy_(ema[name])


def _parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {
        f"{key}.{name}": p
        for key, module in modules.items()
        for name, p in module.named_parameters()
    }


def _save(
    folder: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    ema: dict[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
    parameters: dict[str, nn.Parameter],
) -> None:
    tensors = {f"live.{name}": p.detach().contiguous() for name, p in _parameters(modules).items()}
    tensors |= {f"ema.{name}": value.contiguous() for name, value in ema.items()}
    for name, parameter in parameters.items():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value.contiguous()
    draft = folder / "state.safetensors.draft"
    save_file(
        {key: value.clone() for key, value in tensors.items()}, draft, metadata={"step": str(step)}
    )
    os.replace(draft, folder / "state.safetensors")
    (folder / "step.json").write_text(json.dumps({"step": step}))


def _load(
    folder: Path,
    modules: Mapping[str, nn.Module],
    ema: dict[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
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
        prefix, suffix = "optimizer.", f".{name}"
        kept = {
            key.removeprefix(prefix).removesuffix(suffix): value
            for key, value in state.items()
            if key.startswith(prefix)
            and key.endswith(suffix)
            and key.count(".") == name.count(".") + 2
        }
        for optimizer in optimizers:
            wanted = (
                {"momentum_buffer"}
                if isinstance(optimizer, torch.optim.Muon)
                else {"step", "exp_avg", "exp_avg_sq"}
            )
            if wanted == set(kept) and any(
                parameter is p for g in optimizer.param_groups for p in g["params"]
            ):
                optimizer.state[parameter] = kept
    return int(json.loads((folder / "step.json").read_text())["step"])

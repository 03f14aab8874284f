"""The loop that trains every embedded model: seeded, resumable, with an exponential moving average.

A training is two functions over a dict of modules: `draw(step)` makes the batch of a step on the CPU, in worker
processes if there are any, and `loss(batch, step)` returns the loss and scalars to log. The batch of a step depends on
the seed and the step alone, so an interrupted and resumed run sees the same batches as an uninterrupted one.
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
"""Learning rate of the matrices over that of everything else."""
PREFETCHED_BATCHES = 3
"""Batches that each worker prepares ahead."""
LOG_EVERY = 100
"""Steps."""
Batch = TypeVar("Batch")
Scalars = dict[str, float | Tensor]
"""Logged values of a step. Tensors stay on their device until a line is logged, so that no step waits for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Length and rates of one training."""

    steps: int
    """Optimiser steps in total, over all resumed runs."""
    lr: float
    """Peak learning rate of AdamW."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises linearly from 0."""
    decay_fraction: float = 0.3
    """Last fraction of the run over which the learning rate falls linearly to 2 % of the peak."""
    ema_decay: float = 0.998
    """Decay per step of the averaged weights, which are published; lower at the start of the run."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    scenes_per_step: int = 8
    """Scenes in one batch."""
    clip_norm: float = 1.0
    """Largest gradient norm over all parameters."""
    save_every_s: float = 120.0
    """Seconds between checkpoints."""
    limit_s: float = math.inf
    """Seconds after which a call ends, whatever its steps. The learning rate then decays by the clock, and such a run
    is not exactly repeatable."""
    workers: int = 0
    """Processes that draw batches; 0 draws them in the training process."""

    def lr_at(self, step: int, elapsed_s: float = 0.0) -> float:
        """Return the learning rate of a step: linear warm-up, constant, linear decay.

        Args:
            step: steps done.
            elapsed_s: since the start of this call; counts against `limit_s`.
        """
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

    Small transformers trained from scratch stay at chance level for long under Adam; orthogonalised momentum (Jordan et
    al. 2024, Muon; learning rate matched to Adam's update size as in Liu et al. 2025, arXiv 2502.16982) shortens that.
    """
    matrices, decayed, not_decayed = [], [], []
    for name, parameter in parameters.items():
        if parameter.ndim == 2 and not any(key in name for key in ("embed", "heads.", "lm_head")):
            matrices.append(parameter)
        elif parameter.ndim > 1:
            decayed.append(parameter)
        else:
            not_decayed.append(parameter)

    groups = [
        {"params": decayed, "weight_decay": plan.weight_decay},
        {"params": not_decayed, "weight_decay": 0.0},
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
    """The batches of a range of steps, for a loader's worker processes."""

    def __init__(self, draw: Callable[[int], Batch], first: int, last: int) -> None:
        self.draw, self.first, self.last = draw, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Batch:
        return self.draw(self.first + index)


def batches(draw: Callable[[int], Batch], first: int, last: int, workers: int) -> Iterator[Batch]:
    """Yield `draw(step)` for the steps from `first` to `last`, exclusive, in order.

    Args:
        draw: makes the batch of one step; picklable if there are workers.
        first: first step.
        last: step after the last.
        workers: processes that draw ahead; 0 draws in this process. The batches are the same.
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

    On a CPU that is the plain one: the fused attention of torch was slower at these sizes (docs/log/embedded-prior.md).
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
    """Train until `plan.steps`, from the checkpoint in `folder` if there is one.

    Args:
        modules: trained modules by name; those parameters with requires_grad are trained.
        draw: step -> batch, on the CPU; picklable if the plan has workers.
        loss: batch, step -> scalar loss with graph, and scalars to log.
        plan: length and rates.
        folder: where `state.safetensors` and `progress.jsonl` are kept.
        log: called with a line of progress.

    Side effects: modules hold the averaged weights at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {name: p for name, p in _parameters(modules).items() if p.requires_grad}
    ema = {name: p.detach().clone() for name, p in _parameters(modules).items()}
    state = _TrainingState(modules, parameters, ema, new_optimizers(parameters, plan))
    first = _load(folder, state)

    began = saved = time.monotonic()
    means = _Means()
    for step, batch in enumerate(batches(draw, first, plan.steps, plan.workers), first):
        value, scalars = loss(batch, step)
        norm = _update_weights(state, value, plan, plan.lr_at(step, time.monotonic() - began))
        _update_ema(state, min(plan.ema_decay, (step + 1) / (step + 10)))
        means.add({"loss": value.detach(), "grad_norm": norm.detach(), **scalars})

        done, now = step + 1, time.monotonic()
        last = done == plan.steps or now - began > plan.limit_s
        if done % LOG_EVERY == 0 or last:
            rate = (done - first) / (now - began)
            row = {"step": done, "steps_per_s": round(rate, 3), **means.pop()}
            with (folder / "progress.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            values = " ".join(
                f"{name} {value:.4g}" for name, value in row.items() if name != "step"
            )
            log(f"{done}/{plan.steps} {values}")

        if now - saved > plan.save_every_s or last:
            _save(folder, done, state)
            saved = time.monotonic()
        if last:
            break

    for name, parameter in _parameters(modules).items():
        parameter.data.copy_(ema[name])


@dataclass(frozen=True)
class _TrainingState:
    """What a training changes, and what a checkpoint holds."""

    modules: Mapping[str, nn.Module]
    """By name."""
    parameters: Mapping[str, nn.Parameter]
    """Those that are trained, by module and name."""
    ema: dict[str, Tensor]
    """Averages of all parameters, frozen ones too."""
    optimizers: list[torch.optim.Optimizer]


def _update_weights(state: _TrainingState, loss: Tensor, plan: TrainingPlan, lr: float) -> Tensor:
    """Take one optimiser step; return the norm of the gradient before clipping."""
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
        factor = MUON_LR_FACTOR if isinstance(optimizer, torch.optim.Muon) else 1.0
        for group in optimizer.param_groups:
            group["lr"] = factor * lr

    loss.backward()
    norm = nn.utils.clip_grad_norm_(list(state.parameters.values()), plan.clip_norm)

    # A single step along a gradient that is not finite would ruin the weights.
    if bool(torch.isfinite(norm)):
        for optimizer in state.optimizers:
            optimizer.step()

    return norm


def _update_ema(state: _TrainingState, decay: float) -> None:
    live = _parameters(state.modules)
    averages, current = list(state.ema.values()), [live[name].detach() for name in state.ema]
    torch._foreach_lerp_(averages, current, 1.0 - decay)


class _Means:
    """Means of the scalars since the last line of the log."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float | Tensor, int]] = {}

    def add(self, scalars: Scalars) -> None:
        """Add the scalars of a step; a scalar may be missing in some steps."""
        for name, value in scalars.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, count + 1)

    def pop(self) -> dict[str, float]:
        """Return the means, rounded, and start anew."""
        means = {name: round(float(total) / count, 5) for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means


def _parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {
        f"{key}.{name}": p
        for key, module in modules.items()
        for name, p in module.named_parameters()
    }


def _save(folder: Path, step: int, state: _TrainingState) -> None:
    live = _parameters(state.modules)
    tensors = {f"live.{name}": p.detach().contiguous() for name, p in live.items()}
    tensors |= {f"ema.{name}": value.contiguous() for name, value in state.ema.items()}
    for name, parameter in state.parameters.items():
        for optimizer in state.optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value.contiguous()

    # Written to a draft and renamed, so that an interrupted save leaves the earlier checkpoint intact. Copies, since
    # safetensors refuses tensors that share memory.
    draft = folder / "state.safetensors.draft"
    copies = {key: value.clone() for key, value in tensors.items()}
    save_file(copies, draft, metadata={"step": str(step)})
    os.replace(draft, folder / "state.safetensors")
    (folder / "step.json").write_text(json.dumps({"step": step}))


def _load(folder: Path, state: _TrainingState) -> int:
    """Restore a checkpoint in place; a parameter that it lacks keeps its fresh value. Return the next step."""
    path = folder / "state.safetensors"
    if not path.exists():
        return 0

    tensors = load_file(path)
    for name, parameter in _parameters(state.modules).items():
        if f"live.{name}" in tensors:
            parameter.data.copy_(tensors[f"live.{name}"])
            state.ema[name].copy_(tensors[f"ema.{name}"])

    for name, parameter in state.parameters.items():
        moments = _optimizer_tensors(tensors, name)
        for optimizer in state.optimizers:
            # A parameter may have changed optimiser since; moments of the other kind are of no use.
            is_muon = isinstance(optimizer, torch.optim.Muon)
            expected = {"momentum_buffer"} if is_muon else {"step", "exp_avg", "exp_avg_sq"}
            owned = any(parameter is p for group in optimizer.param_groups for p in group["params"])
            if owned and expected == set(moments):
                optimizer.state[parameter] = moments

    return int(json.loads((folder / "step.json").read_text())["step"])


def _optimizer_tensors(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return an optimiser's tensors of one parameter, by their names in the optimiser."""
    prefix, suffix = "optimizer.", f".{name}"
    return {
        key.removeprefix(prefix).removesuffix(suffix): value
        for key, value in tensors.items()
        # The count of dots tells "a.weight" from another parameter "b.a.weight".
        if key.startswith(prefix) and key.endswith(suffix) and key.count(".") == name.count(".") + 2
    }

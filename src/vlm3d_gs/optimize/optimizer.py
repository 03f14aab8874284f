"""Adam over the raw parameters of a scene, which carries its moments along when Gaussians are added or removed."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm3d_gs import kernels
from vlm3d_gs.config import OptimConfig
from vlm3d_gs.core.gaussians import PARAMETER_NAMES, Gaussians

HIGHER_SH_FACTOR = 0.05
"""Learning rate of the spherical harmonics above degree 0, relative to that of degree 0."""
MOMENTS = ("exp_avg", "exp_avg_sq")


class SceneOptimizer:
    """Holds the scene as leaf tensors and updates them; learning rates follow the schedules of the config."""

    def __init__(self, gaussians: Gaussians, config: OptimConfig) -> None:
        """Start at a scene.

        Raises:
            DeviceError: the config selects the fused kernel on a CUDA device where it cannot run.
        """
        if config.fused and gaussians.device.type == "cuda":
            kernels.require()

        self.config = config
        self._leaves = _leaves(gaussians)
        groups = [{"params": [leaf], "name": name} for name, leaf in self._leaves.items()]
        fused = gaussians.device.type in ("cpu", "cuda")
        self._adam = torch.optim.Adam(
            groups, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused
        )

    @property
    def gaussians(self) -> Gaussians:
        """The scene, on the graph of the leaves."""
        sh = torch.cat([self._leaves["sh_first"], self._leaves["sh_rest"]], 1)
        others = {name: self._leaves[name] for name in PARAMETER_NAMES if name != "sh"}
        return Gaussians(**others, sh=sh)

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        return dict(self._leaves)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self._adam.zero_grad(set_to_none=True)

    def step(self, fraction: float, screen: kernels.ScreenStats | None = None) -> None:
        """Take one Adam step with the learning rates of this fraction of the run.

        Args:
            fraction: of the run.
            screen: densification statistics that the fused kernel updates in the same launch.
        """
        config = self.config
        rates = {
            "means": config.means_lr(fraction),
            "log_scales": config.log_scales_lr(fraction),
            "quats": config.quats_lr(fraction),
            "opacity_logits": config.opacity_logits_lr(fraction),
            "sh_first": config.sh_lr(fraction),
            "sh_rest": config.sh_lr(fraction) * HIGHER_SH_FACTOR,
        }
        for group in self._adam.param_groups:
            group["lr"] = rates[group["name"]]

        if config.fused:
            self._fused_step(screen)
        else:
            self._adam.step()

    def _fused_step(self, screen: kernels.ScreenStats | None) -> None:
        """Do the step of torch's Adam on the state of torch's Adam, so that checkpoints fit either way."""
        parameters = []
        for group in self._adam.param_groups:
            leaf = group["params"][0]
            if leaf.grad is None:
                continue

            state = self._adam.state[leaf]
            if not state:
                state["step"] = torch.zeros(())
                state |= {moment: torch.zeros_like(leaf) for moment in MOMENTS}
            state["step"] += 1.0
            mean, square = (state[moment] for moment in MOMENTS)
            step = int(state["step"])  # on the CPU, so this does not wait for the GPU
            parameters.append(
                kernels.ParameterState(leaf, leaf.grad, mean, square, group["lr"], step)
            )

        rule = kernels.AdamRule(self.config.beta1, self.config.beta2, self.config.eps)
        kernels.adam_step(parameters, rule, screen)

    def replace(self, gaussians: Gaussians, source: Tensor, fresh: Tensor) -> None:
        """Replace the scene by another one; the moments follow their Gaussians.

        Args:
            gaussians: M Gaussians.
            source: [M] int64, index of the Gaussian that each one comes from.
            fresh: [M] bool, True where the moments start at zero.
        """
        for group, (name, leaf) in zip(
            self._adam.param_groups, _leaves(gaussians).items(), strict=True
        ):
            old = group["params"][0]
            state = self._adam.state.pop(old, {})
            for moment in MOMENTS:
                if moment in state:
                    values = state[moment][source]
                    values[fresh] = 0.0
                    state[moment] = values

            group["params"] = [leaf]
            self._leaves[name] = leaf
            if state:
                self._adam.state[leaf] = state

    def state_tensors(self) -> dict[str, Tensor]:
        """Return parameters and moments by name, for a checkpoint."""
        tensors = {f"parameter.{name}": leaf.detach() for name, leaf in self._leaves.items()}
        for name, leaf in self._leaves.items():
            tensors |= {
                f"adam.{key}.{name}": value for key, value in self._adam.state.get(leaf, {}).items()
            }
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned; the number of Gaussians may differ from the current one."""
        for group in self._adam.param_groups:
            name = group["name"]
            old = group["params"][0]
            self._adam.state.pop(old, None)
            leaf = tensors[f"parameter.{name}"].to(old.device).detach().clone().requires_grad_()
            group["params"], self._leaves[name] = [leaf], leaf

            stored = {
                key: tensors[f"adam.{key}.{name}"]
                for key in ("step", *MOMENTS)
                if f"adam.{key}.{name}" in tensors
            }
            if stored:
                # torch's fused Adam counts its steps on the device of the leaf, ours on the CPU.
                devices = {"step": "cpu"} if self.config.fused else {}
                self._adam.state[leaf] = {
                    key: value.to(devices.get(key, leaf.device)).clone()
                    for key, value in stored.items()
                }


def _leaves(gaussians: Gaussians) -> dict[str, Tensor]:
    """Return the trained tensors: the raw parameters, harmonics split into degree 0 and the rest."""
    plain = {name: value for name, value in gaussians.parameters().items() if name != "sh"}
    split = plain | {"sh_first": gaussians.sh[:, :1], "sh_rest": gaussians.sh[:, 1:]}
    return {name: value.detach().clone().requires_grad_() for name, value in split.items()}

"""Adam over the raw parameters of a scene, which carries its moments along when Gaussians are added or removed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm3d_gs import kernels
from vlm3d_gs.config import OptimConfig
from vlm3d_gs.core.gaussians import PARAMETER_NAMES, Gaussians

HIGHER_SH_FACTOR = 0.05
"""Learning rate of the spherical harmonics above degree 0, relative to that of degree 0."""
PARAMETER_PREFIX = "parameter."
"""Of the names of the trained tensors in a checkpoint."""
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
        self.rate_factor = 1.0
        """Multiplies all learning rates; less than 1 after a scene was lost to NaN."""
        self._antialiased = gaussians.antialiased
        self._leaves = _leaves(gaussians)
        self._state: dict[str, dict[str, Tensor]] = {}

    @property
    def gaussians(self) -> Gaussians:
        """The scene, on the graph of the leaves."""
        sh = torch.cat([self._leaves["sh_first"], self._leaves["sh_rest"]], 1)
        others = {name: self._leaves[name] for name in PARAMETER_NAMES if name != "sh"}
        return Gaussians(**others, sh=sh, antialiased=self._antialiased)

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        return dict(self._leaves)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for leaf in self._leaves.values():
            leaf.grad = None

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
        rates = {name: rate * self.rate_factor for name, rate in rates.items()}
        trained = {name: leaf for name, leaf in self._leaves.items() if leaf.grad is not None}
        for name, leaf in trained.items():
            state = self._state.setdefault(name, {})
            if not state:
                # torch's operation reads the number of steps on the device of the leaf, our kernel on the CPU.
                state["step"] = torch.zeros((), device=self._step_device(leaf))
                state |= {moment: torch.zeros_like(leaf) for moment in MOMENTS}
            state["step"] += 1.0

        if config.fused:
            self._kernel_step(trained, rates, screen)
        else:
            self._torch_step(trained, rates)

    @torch.no_grad()
    def _torch_step(self, trained: dict[str, Tensor], rates: dict[str, float]) -> None:
        """Do the step of torch's fused Adam, by the operation beneath `torch.optim.Adam(fused=True)`.

        The class itself imports torch's compiler when it is first used, which takes as long as many steps.
        """
        config = self.config
        for name, leaf in trained.items():
            assert leaf.grad is not None
            state = self._state[name]
            torch._fused_adam_(
                *(
                    [leaf],
                    [leaf.grad],
                    [state["exp_avg"]],
                    [state["exp_avg_sq"]],
                    [],
                    [state["step"]],
                ),
                lr=rates[name],
                beta1=config.beta1,
                beta2=config.beta2,
                weight_decay=0.0,
                eps=config.eps,
                amsgrad=False,
                maximize=False,
            )

    def _kernel_step(
        self,
        trained: dict[str, Tensor],
        rates: dict[str, float],
        screen: kernels.ScreenStats | None,
    ) -> None:
        """Do the same step by our kernel, on the same state, so that checkpoints fit either way."""
        parameters = []
        for name, leaf in trained.items():
            assert leaf.grad is not None
            mean, square = (self._state[name][moment] for moment in MOMENTS)
            step = int(self._state[name]["step"])  # on the CPU, so this does not wait for the GPU
            parameters.append(
                kernels.ParameterState(leaf, leaf.grad, mean, square, rates[name], step)
            )

        rule = kernels.AdamRule(self.config.beta1, self.config.beta2, self.config.eps)
        kernels.adam_step(parameters, rule, screen)

    def _step_device(self, leaf: Tensor) -> torch.device:
        return torch.device("cpu") if self.config.fused else leaf.device

    def replace(
        self,
        gaussians: Gaussians,
        source: Tensor,
        fresh: Tensor,
        reset: Sequence[str] | None = None,
    ) -> None:
        """Replace the scene by another one; the moments follow their Gaussians.

        Args:
            gaussians: M Gaussians.
            source: [M] int64, index of the Gaussian that each one comes from.
            fresh: [M] bool, True where the moments start at zero.
            reset: tensors for which `fresh` holds; None is all.
        """
        for name, leaf in _leaves(gaussians).items():
            state = self._state.get(name, {})
            for moment in MOMENTS:
                if moment in state:
                    values = state[moment][source]
                    if reset is None or name in reset:
                        values.masked_fill_(fresh.view(-1, *[1] * (values.ndim - 1)), 0.0)
                    state[moment] = values
            self._leaves[name] = leaf

    def state_tensors(self) -> dict[str, Tensor]:
        """Return parameters and moments by name, for a checkpoint."""
        tensors = {
            f"{PARAMETER_PREFIX}{name}": leaf.detach() for name, leaf in self._leaves.items()
        }
        for name in self._leaves:
            tensors |= {
                f"adam.{key}.{name}": value for key, value in self._state.get(name, {}).items()
            }
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` returned; the number of Gaussians may differ from the current one."""
        for name, old in self.leaves.items():
            leaf = (
                tensors[f"{PARAMETER_PREFIX}{name}"]
                .to(old.device)
                .detach()
                .clone()
                .requires_grad_()
            )
            self._leaves[name] = leaf

            stored = {
                key: tensors[f"adam.{key}.{name}"].clone()
                for key in ("step", *MOMENTS)
                if f"adam.{key}.{name}" in tensors
            }
            places = {"step": self._step_device(leaf)}
            self._state[name] = {
                key: value.to(places.get(key, leaf.device)) for key, value in stored.items()
            }


def _leaves(gaussians: Gaussians) -> dict[str, Tensor]:
    """Return the trained tensors: the raw parameters, harmonics split into degree 0 and the rest."""
    plain = {name: value for name, value in gaussians.parameters().items() if name != "sh"}
    split = plain | {"sh_first": gaussians.sh[:, :1], "sh_rest": gaussians.sh[:, 1:]}
    return {name: value.detach().clone().requires_grad_() for name, value in split.items()}

"""The only door to the CUDA kernels in `cuda/`: each is a torch operator with a reference in plain torch.

On a CUDA device an operator launches its kernel if the library has been built (`make cuda`); everywhere else it runs
its reference. No kernel is used by default: each has to show a measured gain first (docs/ARCHITECTURE.md).
"""

from __future__ import annotations

from vlm3d_gs.kernels.library import available, require
from vlm3d_gs.kernels.mcmc import perturb_means, relocate
from vlm3d_gs.kernels.splat_adam import AdamRule, ParameterState, ScreenStats, adam_step

__all__ = [
    "AdamRule",
    "ParameterState",
    "ScreenStats",
    "adam_step",
    "available",
    "perturb_means",
    "relocate",
    "require",
]

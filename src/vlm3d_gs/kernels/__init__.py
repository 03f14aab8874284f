"""The door to the own CUDA kernels of `cuda/`: each is a torch operator with a twin in plain torch.

An operator asked about tensors on a CUDA device launches the kernel where the library was built (`make cuda`), and is
its twin everywhere else. No kernel is used by default: each needs a measured gain first (docs/ARCHITECTURE.md).
"""

from __future__ import annotations

from vlm3d_gs.kernels.critic_patches import Cut, critic_patches
from vlm3d_gs.kernels.distillation import add_noise, reconstruction_loss
from vlm3d_gs.kernels.library import available, require
from vlm3d_gs.kernels.mcmc import perturb_means, relocated
from vlm3d_gs.kernels.splat_adam import AdamRule, Moved, Screen, adam_step

__all__ = [
    "AdamRule",
    "Cut",
    "Moved",
    "Screen",
    "adam_step",
    "add_noise",
    "available",
    "critic_patches",
    "perturb_means",
    "reconstruction_loss",
    "relocated",
    "require",
]

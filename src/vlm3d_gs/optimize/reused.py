"""The last gradient of a guidance that is asked seldom, kept on the Gaussians until it is asked again."""

from __future__ import annotations

import torch
from torch import Tensor


class ReusedGradients:
    """Gradients of the scene's trained tensors, which follow their Gaussians through densification."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def keep(self, names: tuple[str, ...], gradients: tuple[Tensor | None, ...]) -> None:
        """Take new gradients; None is a tensor that the guidance does not touch."""
        self.tensors = {
            name: gradient.detach().clone()
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is not None
        }

    def add_to(self, leaves: dict[str, Tensor]) -> None:
        """Add what is kept to the leaves' gradients."""
        for name, gradient in self.tensors.items():
            leaf = leaves[name]
            leaf.grad = gradient.clone() if leaf.grad is None else leaf.grad + gradient

    def follow(self, source: Tensor, fresh: Tensor) -> None:
        """Follow a densification round: new Gaussians begin without.

        Args:
            source: [M] int64, the earlier Gaussian that each one comes from.
            fresh: [M] bool.
        """
        for name, gradient in self.tensors.items():
            moved = gradient[source]
            moved[fresh] = 0.0
            self.tensors[name] = moved

    def state_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold."""
        return dict(self.tensors)

    def load_state_tensors(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Restore what `state_tensors` returned."""
        self.tensors = {name: value.to(device) for name, value in tensors.items()}

"""The last gradient of a guidance that is called seldom, applied at each step until its next call."""

from __future__ import annotations

import torch
from torch import Tensor


class ReusedGradients:
    """Gradients of the trained tensors of a scene, which follow their Gaussians through densification."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def keep(self, names: tuple[str, ...], gradients: tuple[Tensor | None, ...]) -> None:
        """Replace the gradients by new ones; None is a tensor that the guidance does not affect."""
        self.tensors = {
            name: gradient.detach().clone()
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is not None
        }

    def add_to(self, leaves: dict[str, Tensor]) -> None:
        """Add the stored gradients to those of the leaves."""
        for name, gradient in self.tensors.items():
            leaf = leaves[name]
            leaf.grad = gradient.clone() if leaf.grad is None else leaf.grad + gradient

    def follow(self, source: Tensor, fresh: Tensor) -> None:
        """Follow a densification round: new Gaussians start without a gradient.

        Args:
            source: [M] int64, index of the Gaussian that each one comes from.
            fresh: [M] bool.
        """
        for name, gradient in self.tensors.items():
            values = gradient[source]
            values[fresh] = 0.0
            self.tensors[name] = values

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the gradients by name, for a checkpoint."""
        return dict(self.tensors)

    def load_state_tensors(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Restore what `state_tensors` returned."""
        self.tensors = {name: value.to(device) for name, value in tensors.items()}

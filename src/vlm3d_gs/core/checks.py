"""Checks of tensors that enter the package: shape, finiteness, device.

Each raises an error that names the argument, its value and what is allowed. None of them copies
data.
"""

from __future__ import annotations

import math

from torch import Tensor

from vlm3d_gs.core.errors import NotFiniteError, ShapeError


def expect_shape(name: str, tensor: Tensor, shape: tuple[int | str | None, ...]) -> dict[str, int]:
    """Require a shape, with free and named dimensions.

    Args:
        name: the argument's name as the user knows it, e.g. `gaussians.means`.
        tensor: the tensor to check.
        shape: one entry per dimension: an int is required exactly, None is free, a letter is free but
            must stand for the same size wherever it is repeated.

    Returns:
        The size that each letter stands for.

    Raises:
        ShapeError: another number of dimensions, or a size that does not fit.

    Example:
        >>> expect_shape("points", torch.zeros(5, 3), ("N", 3))
        {'N': 5}
    """
    sizes: dict[str, int] = {}
    fits = isinstance(tensor, Tensor) and tensor.ndim == len(shape)
    if fits:
        for size, expected in zip(tensor.shape, shape, strict=True):
            if isinstance(expected, str):
                fits = fits and sizes.setdefault(expected, size) == size
            elif expected is not None:
                fits = fits and size == expected

    if not fits:
        text = ", ".join("any" if expected is None else str(expected) for expected in shape)
        got = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ShapeError(f"{name} must be a tensor of shape [{text}], got {got}.")
    return sizes


def expect_finite(name: str, tensor: Tensor) -> None:
    """Require that no element is NaN or infinite.

    Raises:
        NotFiniteError: at least one is; the message counts them and gives the index of the first.

    Reads the tensor once, and therefore synchronises a GPU.
    """
    values = tensor.detach()
    # One pass in the usual case. A sum may also overflow, so what it rejects needs a second look.
    if math.isfinite(values.sum().item()):
        return

    bad = (~values.isfinite()).nonzero()
    if len(bad) > 0:
        raise NotFiniteError(
            f"{name} has {len(bad)} values that are NaN or infinite, the first at index {bad[0].tolist()}; "
            "all must be finite. Lower the learning rate, or check the input that produced them."
        )


def expect_same_device(tensors: dict[str, Tensor]) -> None:
    """Require that all tensors are on one device.

    Args:
        tensors: argument name to tensor.

    Raises:
        ShapeError: two of them differ; the message gives the device of each.
    """
    if len({str(tensor.device) for tensor in tensors.values()}) > 1:
        where = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ShapeError(
            f"All tensors must be on one device, got {where}. Move them with .to(device)."
        )

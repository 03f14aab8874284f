"""The compiled library: loaded once, with the reasons where it cannot be."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vlm3d_gs.core.errors import DeviceError

LIBRARY = Path(__file__).with_name("libvlm3d_gs_kernels.so")
"""What `make cuda` builds; wheels of this package hold it."""


@cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """Return the library and "", or None and the reason; cached for the process, failures included."""
    if not LIBRARY.is_file():
        return None, f"{LIBRARY} is not there (run: make cuda, in a checkout)"

    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.vlm3d_gs_error_text.restype = ctypes.c_char_p
        library.vlm3d_gs_check.restype = ctypes.c_int
    except (OSError, AttributeError) as error:
        return None, f"{LIBRARY} cannot be loaded ({error}); run: make cuda"

    return library, ""


@cache
def refusal() -> str:
    """Return why the library cannot use a card that torch sees, "" where it can; cached for the process.

    The library holds a CUDA runtime of its own, so it may need a newer driver than torch does.
    """
    library, reason = load()
    if library is None:
        return reason

    error = library.vlm3d_gs_check()
    return f"{LIBRARY.name} finds no card: {explain(library, error)}" if error else ""


def explain(library: ctypes.CDLL, error: int) -> str:
    """Return CUDA's words for an error code of a launcher."""
    text: bytes = library.vlm3d_gs_error_text(error)
    return text.decode()


def obstacles() -> list[str]:
    """Return the reasons why the kernels cannot run here; empty where they can."""
    if torch.cuda.is_available():
        return [refusal()] if refusal() else []

    found = ["torch sees no CUDA device"]
    if load()[0] is None:
        found.append(load()[1])
    return found


def available() -> bool:
    """Return whether the kernels can run here."""
    return not obstacles()


def require() -> None:
    """Refuse a machine on which the kernels cannot run.

    Raises:
        DeviceError: with all the reasons.
    """
    reasons = obstacles()
    if reasons:
        raise DeviceError(f"The project's CUDA kernels cannot run here: {'; and '.join(reasons)}.")


def accepts(*tensors: Tensor) -> bool:
    """Return whether a kernel can run on these: all contiguous float32 on one CUDA device, and the library usable."""
    return (
        all(t.is_cuda and t.dtype == torch.float32 and t.is_contiguous() for t in tensors)
        and len({tensor.device for tensor in tensors}) == 1
        and not refusal()
    )


def launch(name: str, device: torch.device, *arguments: object) -> None:
    """Call a launcher with these arguments and torch's current stream on the device.

    Raises:
        DeviceError: the library is not loaded, or CUDA refused the launch.
    """
    library, reason = load()
    if library is None:
        raise DeviceError(f"The project's CUDA kernels cannot run here: {reason}.")

    with torch.cuda.device(device):
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        error = getattr(library, f"vlm3d_gs_{name}")(*arguments, stream)

    if error:
        raise DeviceError(
            f"The kernel {name} did not start on {device}: {explain(library, error)}. "
            "If it was built for other cards, rebuild it: make cuda."
        )


def address(tensor: Tensor) -> int:
    """Return the address of a tensor's first value."""
    return tensor.data_ptr()

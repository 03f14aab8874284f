"""The cards of this machine and their driver, asked of the driver itself: torch takes seconds to load."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

CAPABILITY_MAJOR = 75
CAPABILITY_MINOR = 76
"""`CUdevice_attribute` of the driver's interface."""


@dataclass(frozen=True, slots=True)
class Cards:
    """What the driver says."""

    driver_cuda: tuple[int, int] | None
    """Newest CUDA version that the driver runs; None without a driver."""
    architectures: tuple[str, ...] = ()
    """Of the cards that a program may use, such as 9.0; each once, oldest first."""


def find_cards() -> Cards:
    """Ask the driver; a machine without one has no cards."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Cards(None)

    number = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(number))
    version = (number.value // 1000, number.value % 1000 // 10)
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return Cards(version)

    found = set()
    for index in range(count.value):
        device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device)
        found.add((major.value, minor.value))
    return Cards(version, tuple(f"{major}.{minor}" for major, minor in sorted(found)))

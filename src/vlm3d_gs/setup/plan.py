"""What there is, what is missing with its cure, and what will be done: all of it known before anything starts."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.setup.cards import Cards, find_cards
from vlm3d_gs.setup.environment import cache_folder
from vlm3d_gs.setup.installer import Installer, find_installer
from vlm3d_gs.setup.toolkit import PACKAGED_MAJOR, compiler_version, find_toolkit
from vlm3d_gs.setup.torch_build import TorchBuild, find_torch
from vlm3d_gs.setup.wheels import GSPLAT, WheelStore

ARCHITECTURES = (
    *("7.5", "8.0", "8.6", "8.7", "8.8", "8.9"),
    *("9.0", "10.0", "10.3", "11.0", "12.0", "12.1"),
)
"""What CUDA 13 compiles for."""
EXAMPLES = "8.0 is an A100, 8.6 a GeForce 30, 8.9 a GeForce 40 or L4, 9.0 an H100, 10.0 a B200, 12.0 a GeForce 50"

MIB = 2**20
TOOLKIT_MIB = 400
"""Of the compiler's packages, while and after they are unpacked."""
BUILD_MIB = 400
"""Of the build, and of the wheel that is left of it."""
INSTALL_MIB = 60
"""Of gsplat in the environment."""
JOB_MIB = 2500
"""Memory that one compiler at work may need."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that was found and chosen."""

    torch: TorchBuild
    cards: Cards
    architectures: tuple[str, ...]
    """To build for, oldest first."""
    installer: Installer | None
    toolkit: Path | None
    """Of this machine; None: the compiler's packages are used."""
    cache: Path
    jobs: int
    """Compilers at work at the same time."""

    @property
    def store(self) -> WheelStore:
        """Where the wheel for this torch, Python and these cards is kept."""
        return WheelStore(self.cache, self.torch.version, self.architectures)

    @property
    def packaged_toolkit(self) -> Path:
        """Where the compiler's packages are unpacked."""
        return self.cache / f"cuda-{self.torch.cuda}"

    @property
    def packaged_home(self) -> Path:
        """The toolkit that these packages make, as far as it goes."""
        return self.packaged_toolkit / "nvidia" / f"cu{self.torch.cuda_major}"


def make_plan(architectures: Sequence[str]) -> Plan:
    """Look at torch, cards, toolkits, cores and memory; nothing is changed.

    Args:
        architectures: of the cards to build for; empty for those of this machine.

    Raises:
        ConfigError: an architecture that does not exist.
        MissingDependencyError: there is no torch.
    """
    for name in architectures:
        if name.removesuffix("+PTX") not in ARCHITECTURES:
            raise ConfigError(
                f"There is no architecture {name!r} to build for. Known: {', '.join(ARCHITECTURES)} ({EXAMPLES})."
            )

    torch, cards = find_torch(), find_cards()
    chosen = sorted(set(architectures or cards.architectures), key=_numbers)
    toolkit = find_toolkit(torch) if torch.cuda else None
    return Plan(
        torch, cards, tuple(chosen), find_installer(), toolkit, cache_folder(), parallel_jobs()
    )


def obstacles(plan: Plan) -> list[str]:
    """Return what stands in the way of a build here, each with its cure; empty if nothing does."""
    if plan.architectures and plan.store.wheel() is not None:
        return [*_no_way_to_install(plan), *_missing_space(plan)]
    return [
        *_wrong_machine(plan),
        *_no_way_to_install(plan),
        *_missing_programs(plan),
        *_missing_space(plan),
    ]


def _wrong_machine(plan: Plan) -> list[str]:
    found = []
    if sys.platform != "linux":
        found.append(
            "This command works on Linux. On Windows use WSL 2, where it works as on Linux; "
            "macOS has no CUDA, and the CPU renderer is used there."
        )

    if plan.torch.cuda is None:
        found.append(
            f"torch {plan.torch.version} is a build without CUDA. Run: pip install --force-reinstall torch, "
            "without the index of CPU builds."
        )
    elif plan.cards.driver_cuda and plan.cards.driver_cuda[0] < plan.torch.cuda_major:
        found.append(
            f"The driver runs CUDA {'.'.join(map(str, plan.cards.driver_cuda))} and torch is built for "
            f"{plan.torch.cuda}. Update the driver (580 or newer runs CUDA 13)."
        )
    if plan.torch.cuda and plan.torch.cuda_major < PACKAGED_MAJOR and plan.toolkit is None:
        found.append(
            f"torch {plan.torch.version} is built for CUDA {plan.torch.cuda}, whose compiler is no package. "
            f"Run: pip install --upgrade torch (built for CUDA 13, driver 580 or newer), or install the CUDA toolkit "
            f"{plan.torch.cuda}."
        )

    if not plan.architectures:
        found.append(
            "The driver sees no card here. Name the architecture to build for, such as --arch 9.0 "
            f"({EXAMPLES})."
        )
    too_old = [
        name for name in plan.architectures if name.removesuffix("+PTX") not in ARCHITECTURES
    ]
    if too_old:
        found.append(
            f"CUDA 13 builds for {ARCHITECTURES[0]} and newer, and there is a card of {', '.join(too_old)} here. "
            "Name the others with --arch, or run on the CPU with --device cpu."
        )
    return found


def _no_way_to_install(plan: Plan) -> list[str]:
    if plan.installer is None:
        return [
            "Neither pip nor uv is there to install with. Run: python -m ensurepip, or install uv."
        ]
    if sys.prefix == sys.base_prefix and _externally_managed():
        return [
            "This Python belongs to the operating system, which forbids installing into it. "
            "Make an environment (python3 -m venv .venv) and install vlm3d-gs there."
        ]
    return []


def _missing_programs(plan: Plan) -> list[str]:
    found = []
    if shutil.which("g++") is None:
        found.append("g++ is missing. Run: apt install g++ (or: conda install gxx).")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        release = f"{sys.version_info.major}.{sys.version_info.minor}"
        found.append(f"Python's headers are missing. Run: apt install python{release}-dev.")

    cuda_packages = plan.torch.nvidia / "include"
    if (
        plan.torch.cuda_major >= PACKAGED_MAJOR
        and plan.toolkit is None
        and not cuda_packages.is_dir()
    ):
        found.append(
            f"This torch did not come with CUDA's headers as packages ({cuda_packages} is not there), so its compiler "
            f"must come from where it came from. Install the CUDA toolkit {plan.torch.cuda} with the headers of its "
            "libraries, or torch by pip."
        )
    return found


def _missing_space(plan: Plan) -> list[str]:
    needs = {existing(plan.cache): space_mib(plan)}
    environment = existing(Path(sysconfig.get_path("platlib")))
    needs[environment] = needs.get(environment, 0) + INSTALL_MIB

    found = []
    for folder, mib in needs.items():
        free = shutil.disk_usage(folder).free // MIB
        if free < mib:
            found.append(
                f"{folder} has {free} MiB free, and {mib} are needed. Make room, or set XDG_CACHE_HOME to a "
                "larger disk."
            )
        if not os.access(folder, os.W_OK):
            found.append(f"{folder} cannot be written to. Use an environment of your own.")
    return found


def space_mib(plan: Plan) -> int:
    """Return what the cache needs until all is done, MiB."""
    if plan.store.wheel() is not None:
        return 0
    fetched = plan.toolkit is not None or compiler_version(plan.packaged_home) is not None
    return BUILD_MIB + (0 if fetched else TOOLKIT_MIB)


def describe(plan: Plan) -> list[str]:
    """Return what was found and what will be done, a line each."""
    cards = ", ".join(plan.cards.architectures) or "none"
    lines = [
        f"torch      {plan.torch.version} (CUDA {plan.torch.cuda})",
        f"cards      {cards}; gsplat {GSPLAT} is for {', '.join(plan.architectures)}",
    ]
    if plan.store.wheel() is not None:
        return [*lines, f"wheel      {plan.store.wheel()}, built before"]

    if plan.toolkit is not None:
        lines.append(f"compiler   {plan.toolkit}")
    elif compiler_version(plan.packaged_home) is not None:
        lines.append(f"compiler   {plan.packaged_toolkit}, fetched before")
    else:
        lines.append(f"compiler   to be fetched (110 MB) into {plan.packaged_toolkit}")
    return [
        *lines,
        f"build      {plan.jobs} file{'s' if plan.jobs > 1 else ''} at a time, some minutes; "
        f"needs {space_mib(plan)} MiB of disk while it works",
        f"wheel      to be kept in {plan.store.folder}",
        f"install    by {plan.installer.name if plan.installer else '?'} into {sys.prefix}",
    ]


def parallel_jobs() -> int:
    """Return how many compilers may work: one core stays free, and memory must do for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min((cores or 1) - 1, _free_memory_mib() // JOB_MIB))


def _free_memory_mib() -> int:
    """Return the memory that is available, in a container what its limit leaves."""
    free = []
    said = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", said.read_text()) if said.is_file() else None
    if found:
        free.append(int(found.group(1)) // 1024)

    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free.append((int(limit.read_text()) - int(used.read_text())) // MIB)
    return min(free, default=JOB_MIB)


def _externally_managed() -> bool:
    return (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").is_file()


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _numbers(architecture: str) -> tuple[int, ...]:
    return tuple(int(part) for part in architecture.removesuffix("+PTX").split("."))

"""From a machine with a card to a gsplat that renders on it: what is done, in order."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import invalidate_caches
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from vlm3d_gs.core.errors import SetupError
from vlm3d_gs.setup.build import Progress, build_wheel, run
from vlm3d_gs.setup.environment import inherited
from vlm3d_gs.setup.installer import Installer
from vlm3d_gs.setup.plan import Plan, obstacles
from vlm3d_gs.setup.wheels import installed_library, was_built_here

Tell = Callable[[str], None]


def is_ready(plan: Plan) -> bool:
    """Return whether this environment has the very wheel that was built and tried for its cards before."""
    return plan.store.is_installed() and _place(plan) in plan.store.proved_on()


def takes_installed(plan: Plan, tell: Tell) -> bool:
    """Return whether gsplat is installed, compiled, and works here, whoever built it; loads torch, in a program.

    Without a card only its loading can be tried. So what was built here for other cards is not taken there.
    """
    library = installed_library()
    if library is None or plan.store.wheel() is not None:
        return False
    if not plan.cards.architectures and was_built_here(library, plan.cache):
        return False

    try:
        tell(f"gsplat {version('gsplat')} is installed and works: {prove()}")
    except SetupError as error:
        tell(f"gsplat is installed but does not work here, so it is built anew. {error}")
        return False
    return True


def carry_out(plan: Plan, tell: Tell, progress: Progress) -> None:
    """Build gsplat if no wheel of it is kept, install it, and try it.

    Args:
        plan: what was chosen.
        tell: called with what is being done, a sentence each.
        progress: called with files done and files in all.

    Raises:
        SetupError: something is missing, failed, or the result does not work; what was begun is taken back.
    """
    found = obstacles(plan)
    if found or plan.installer is None:
        raise SetupError("\n  - ".join(["gsplat cannot be set up here yet:", *found]))

    with _ends_on_signals(), _alone(plan.cache, tell):
        # Another program may have built it while this one waited.
        wheel, is_new = plan.store.wheel(), False
        if wheel is None:
            wheel, is_new = build_wheel(plan, tell, progress), True

        try:
            tell(f"installing {wheel.name} by {plan.installer.name} into {sys.prefix}")
            install(wheel, plan.installer)
            tell(prove())
        except SetupError:
            if is_new:
                wheel.unlink()
            raise
        plan.store.note(wheel, _place(plan))


def install(wheel: Path, installer: Installer) -> None:
    """Put a wheel into this environment in place of any gsplat, and what it needs; torch stays as it is.

    Raises:
        SetupError: the installer failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        run(installer.replace(wheel), inherited(), log)
        invalidate_caches()
        missing = [need for need in requires("gsplat") or [] if not _is_met(need)]
        if missing:
            run(installer.install(*missing), inherited(), log)


def prove() -> str:
    """Load the installed gsplat and compare its picture with ours, where there is a card; return what came out.

    Raises:
        SetupError: it does not load, or draws something else.
    """
    command = [sys.executable, "-m", "vlm3d_gs.setup.proof"]
    source = Path(__file__).resolve().parents[2]
    environment = inherited(first={"PYTHONPATH": source})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise SetupError(f"gsplat does not load: {said[-1] if said else 'no reason given'}.")

    answer = json.loads(done.stdout.splitlines()[-1])
    if not answer["card"]:
        return "gsplat's compiled code loads (no card here, so nothing was rendered)"
    found = f"one splat on {answer['card']} differs from the definition by {answer['difference']:.5f} at most"
    if not answer["agrees"]:
        raise SetupError(f"gsplat draws something else: {found}.")
    return found


def _is_met(requirement: str) -> bool:
    """Return whether a requirement of gsplat is installed, in any version; those of its extras count as met."""
    try:
        return ";" in requirement or bool(version(re.split(r"[^\w.-]", requirement)[0]))
    except PackageNotFoundError:
        return False


def _place(plan: Plan) -> str:
    """Return what a proof here is worth: on which cards, or that without any the code loads."""
    return ", ".join(plan.cards.architectures) or "no card"


@contextmanager
def _alone(cache: Path, tell: Tell) -> Iterator[None]:
    """Let one program at a time work in the cache; the others wait."""
    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell("another vlm3d-gs setup gpu is at work; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _ends_on_signals() -> Iterator[None]:
    """Treat a request to terminate as Ctrl-C, so that the compilers end too and their folder goes."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

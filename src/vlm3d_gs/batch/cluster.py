"""Workers on a Ray cluster: one actor each, which keeps its models, and gets one item at a time.

Actors and not Ray Data: what a preempted node was doing is known by name and goes on from its checkpoint in the
batch's folder, while Ray Data would compute a whole block again; and a prompt that always crashes costs itself, not
the pipeline. The driver starts a new actor in place of a dead one, and Ray places it where there is room.

All nodes must have this package, and see the folder of the batch under the same path or by its URL.

A node that cannot make what others can, for a full disk, say, gets no more items; its actors stay where they are, so
that Ray starts no others there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from vlm3d_gs.batch.driver import EVERYWHERE, Event, Guard, Job, Tell
from vlm3d_gs.batch.items import Item
from vlm3d_gs.batch.outcome import Outcome, failure
from vlm3d_gs.batch.worker import make_where, prepare
from vlm3d_gs.core.errors import ConfigError, SetupError, Vlm3dGsError

POLL_S = 0.2
ASK_S = 1.0
"""Between two questions to an actor how far it is."""
ASKED_PER_S = 100.0
"""So many questions a second to all actors together, which costs the driver a tenth of a core or so."""
GRACE_S = 120.0
STRIKES = 2
"""So many items in a row that a node could not make, for a reason of its own, and it gets no more."""
MOST_STARTS = 3
"""So many actors in a row that cannot begin, on nodes that live, end the batch."""


class _Maker:
    """What runs in an actor: items in one thread, questions in another."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._engine = prepare(settings)
        self._far = (0, 0)
        self._stopped = False

    def where(self) -> str:
        """Return the node's id, once the engine is there."""
        return str(ray.get_runtime_context().get_node_id())

    def make(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Make an item; return its outcome as plain data."""
        self._far = (0, 0)
        return make_where(self._settings, self._engine, Item.from_plain(item), self._beat).plain()

    def far(self) -> tuple[int, int]:
        """Return steps done and planned."""
        return self._far

    def stop(self) -> None:
        """End the run in progress after its step."""
        self._stopped = True

    def _beat(self, step: int, steps: int) -> bool:
        self._far = (step, steps)
        return self._stopped


class RayDriver:
    """Makes items on a cluster.

    Args:
        address: `local` starts Ray on this machine, `auto` finds the cluster that this machine belongs to; or
            `host:port`, `ray://host:port`.
        workers: actors; None is as many as the cluster has room for.
        threads: CPUs of each.
        gpus: of each; a fraction shares a card.
        device: as the setting.
    """

    def __init__(
        self,
        address: str,
        workers: int | None = None,
        threads: int = 1,
        gpus: float = 0.0,
        device: str = "cpu",
    ) -> None:
        self._address, self._workers, self._threads = address, workers, threads
        self._gpus, self._device = gpus, device

    def run(
        self, items: Sequence[Item], job: Job, tell: Tell, stop_requested: Callable[[], bool]
    ) -> None:
        """As `driver.Driver.run`."""
        _join(self._address, (self._workers or 0) * self._threads)
        count = min(self._workers or self._room(), len(items))
        settings = {
            "engine": job.engine,
            "device": self._device,
            "offline": job.offline,
            "threads": self._threads,
            "shared": job.shared.plain(),
            # Where an actor runs, this process's folder is none.
            "out": str(job.out.absolute()),
            "store": job.store,
        }
        kind = ray.remote(_Maker).options(
            num_cpus=self._threads, num_gpus=self._gpus, max_concurrency=2, max_restarts=0
        )
        session = _Session(lambda: kind.remote(settings), deque(items), job, tell)
        try:
            session.work(count, stop_requested)
        finally:
            session.kill()
            if self._address == "local":
                ray.shutdown()

    def _room(self) -> int:
        """Return how many actors fit into the cluster as it is."""
        found = ray.cluster_resources()
        room = found.get("CPU", 1.0) / self._threads
        if self._gpus > 0:
            room = min(room, found.get("GPU", 0.0) / self._gpus)
        return max(1, int(room))


class _Actor:
    """An actor, and what it is doing."""

    def __init__(self, name: str, handle: Any) -> None:
        self.name, self.handle = name, handle
        self.item: Item | None = None
        self.node: str | None = None
        self.far = (0, 0)
        self.heard = self.given = self.asked = time.monotonic()
        self.question: Any = None


class _Session:
    """One call of `RayDriver.run`."""

    def __init__(
        self, start: Callable[[], Any], waiting: deque[Item], job: Job, tell: Tell
    ) -> None:
        self._start, self._waiting, self._job, self._tell = start, waiting, job, tell
        self._actors: dict[Any, _Actor] = {}
        self._tries: dict[str, int] = {}
        self._guard = Guard()
        self._failed_starts = 0
        self._stopping = False
        self._parked: list[_Actor] = []
        self._strikes: dict[str, int] = {}
        self._spoiled: dict[str, set[str]] = {}
        self._trouble = ""

    def work(self, count: int, stop_requested: Callable[[], bool]) -> None:
        """Go on until nothing is left, or a stop was requested and everything is saved."""
        for number in range(count):
            self._begin(f"r{number}")

        ends: float | None = None
        while self._actors and (self._waiting or self._busy()):
            if ends is None and stop_requested():
                ends, self._stopping = time.monotonic() + GRACE_S, True
                self._waiting.clear()
                for actor in self._actors.values():
                    actor.handle.stop.remote()
            if ends is not None and time.monotonic() > ends:
                return
            ready, _ = ray.wait(list(self._actors), timeout=POLL_S)
            for reference in ready:
                self._hear(reference)
            for reference, actor in list(self._actors.items()):
                self._ask(reference, actor)
        if self._waiting:
            text = f"No node of the cluster can make assets: {self._trouble}"
            raise Vlm3dGsError(f"{text} Once that is mended, the same command goes on.")

    def kill(self) -> None:
        """End all actors at once."""
        for actor in (*self._actors.values(), *self._parked):
            with suppress(RayError):
                ray.kill(actor.handle)
        self._actors.clear()
        self._parked.clear()

    def _busy(self) -> bool:
        return any(actor.item is not None for actor in self._actors.values())

    def _begin(self, name: str) -> None:
        actor = _Actor(name, self._start())
        self._actors[actor.handle.where.remote()] = actor

    def _hear(self, reference: Any) -> None:
        """Take an actor's answer, or its death."""
        actor = self._actors.pop(reference)
        try:
            answer = ray.get(reference)
        except RayError as error:
            self._died(actor, "crash", _short(error))
            return

        self._failed_starts = 0
        if actor.item is None:
            actor.node = answer
        else:
            self._ended(actor, Outcome.from_plain(answer))
        self._give(actor)
        # What came back may be for those that found nothing before.
        parked, self._parked = self._parked, []
        for each in parked:
            self._give(each) if self._waiting else self._parked.append(each)

    def _give(self, actor: _Actor) -> None:
        if not self._waiting:
            with suppress(RayError):
                ray.kill(actor.handle)
            return
        item = self._next_for(actor)
        if item is None:
            self._parked.append(actor)
            if not any(each.node is None for each in self._actors.values()):
                self._need_another()
            return
        actor.item = item
        self._tries[item.id] = self._tries.get(item.id, 0) + 1
        actor.given = actor.heard = time.monotonic()
        actor.far, actor.question = (0, 0), None
        self._tell(Event("begin", item, actor.name))
        self._actors[actor.handle.make.remote(item.plain())] = actor

    def _next_for(self, actor: _Actor) -> Item | None:
        """Take the first item that waits and that its node may make; None if there is none."""
        assert actor.node is not None
        if self._strikes.get(actor.node, 0) >= STRIKES:
            return None
        for item in self._waiting:
            if actor.node not in self._spoiled.get(item.id, ()):
                self._waiting.remove(item)
                return item
        return None

    def _need_another(self) -> None:
        """Begin an actor if nobody who is at work can take what waits, and a node is left that might."""
        able = {node for node in _living() if self._strikes.get(node, 0) < STRIKES}
        at_work = {actor.node for actor in self._actors.values()}
        for item in self._waiting:
            fit = able - self._spoiled.get(item.id, set())
            if fit and not fit & at_work:
                self._begin(f"r{len(self._actors) + len(self._parked)}")
                return

    def _ask(self, reference: Any, actor: _Actor) -> None:
        """Ask an actor how far it is; one whose answer does not change for too long hangs."""
        now = time.monotonic()
        if actor.item is None:
            return
        pause_s = max(ASK_S, len(self._actors) / ASKED_PER_S)
        if actor.question is None and now - actor.asked > pause_s:
            actor.question, actor.asked = actor.handle.far.remote(), now
        elif actor.question is not None and ray.wait([actor.question], timeout=0)[0]:
            with suppress(RayError):
                far = tuple(ray.get(actor.question))
                if far != actor.far:
                    actor.far, actor.heard = far, now
                    self._tell(Event("step", actor.item, actor.name, far[0], far[1]))
            actor.question = None
        if now - actor.heard > self._job.timeout_s:
            self._actors.pop(reference, None)
            with suppress(RayError):
                ray.kill(actor.handle)
            text = f"its worker did no step for {now - actor.heard:.0f} s and was ended (--timeout)"
            self._died(actor, "hang", text)

    def _ended(self, actor: _Actor, outcome: Outcome) -> None:
        item, actor.item = actor.item, None
        assert item is not None
        if self._goes_elsewhere(actor, item, outcome):
            return
        outcome = replace(outcome, tries=max(1, self._tries[item.id]))
        self._tell(Event("end", item, actor.name, outcome=outcome))
        self._guard(outcome)

    def _goes_elsewhere(self, actor: _Actor, item: Item, outcome: Outcome) -> bool:
        """Put an item back that failed for a reason of its node, if another node may do better."""
        if actor.node is None or self._stopping:
            return False
        if outcome.status != "failed" or outcome.kind not in EVERYWHERE:
            self._strikes[actor.node] = 0
            return False

        self._strikes[actor.node] = self._strikes.get(actor.node, 0) + 1
        self._trouble = outcome.reason
        spoiled = self._spoiled.setdefault(item.id, set())
        spoiled.add(actor.node)
        able = {node for node in _living() if self._strikes.get(node, 0) < STRIKES}
        if len(spoiled) >= max(2, self._job.tries) or not able - spoiled:
            return False

        text = f"{item.id}: {outcome.reason} Another node tries it"
        self._tell(Event("note", text=text))
        self._waiting.appendleft(item)
        return True

    def _died(self, actor: _Actor, kind: str, reason: str) -> None:
        """Account for an actor that is gone, and start another if there is work for it."""
        item, seconds = actor.item, time.monotonic() - actor.given
        preempted = actor.node is not None and not _lives(actor.node)
        if item is None and actor.node is None:
            self._failed_starts += 1
            if self._failed_starts >= MOST_STARTS:
                raise SetupError(f"{MOST_STARTS} actors in a row could not begin: {reason}")
        elif item is not None and self._stopping:
            self._ended(actor, failure(item, "", "interrupted", seconds, status="stopped"))
        elif item is not None and (preempted or self._tries[item.id] < self._job.tries):
            # A node that went away says nothing about the prompt.
            self._tries[item.id] -= preempted
            self._tell(Event("note", text=f"{item.id}: {reason}; it is tried again"))
            self._waiting.appendleft(item)
        elif item is not None:
            self._ended(actor, failure(item, kind, reason, seconds))
        if self._waiting:
            self._begin(actor.name)


def _join(address: str, cpus: int) -> None:
    """Connect to a cluster, or start Ray here.

    Raises:
        ConfigError: there is no cluster at the address.
    """
    if ray.is_initialized():
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        ray.init(address="local", num_cpus=cpus or None, include_dashboard=False, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"There is no Ray cluster at {address!r}: {_short(error)} Start one with `ray start --head`, or give "
            "--ray local."
        ) from error


def _lives(node: str) -> bool:
    """Return whether a node is still part of the cluster."""
    return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())


def _living() -> set[str]:
    """Return the nodes that actors may run on."""
    return {
        each["NodeID"] for each in ray.nodes() if each["Alive"] and each["Resources"].get("CPU")
    }


def _short(error: BaseException) -> str:
    """Return the first line of an error of Ray, whose texts are pages long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__

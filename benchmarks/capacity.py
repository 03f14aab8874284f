"""A million prompts on a thousand GPUs, simulated from what was measured: how long, what it costs, what gives first.

    python benchmarks/capacity.py                     # some minutes
    python benchmarks/capacity.py --quick             # a small one of each
    python benchmarks/capacity.py --write docs/SCALE.md   # puts the tables between the marks of that page

Simulated by simpy: a driver that gives out items and keeps the manifest, actors with a card each on nodes that fail and
are taken away, weights that each node pulls once, an object store. Each shared part is a line with one server of a
fixed rate, first come, first served. `Inputs` says of every number whether it was measured, and where, or assumed.

The base runs at full size; all cases, the base again among them, as a model of a tenth: a tenth of the prompts, cards
and shared rates, so that all shares stay what they are. The two rows of the base show how well that holds.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import simpy

BEGIN, END = "<!-- capacity: begin -->", "<!-- capacity: end -->"
MEASURED, ASSUMED = "measured", "assumed"


def number(default: float, kind: str, source: str) -> Any:
    """Return a field with its origin."""
    return field(default=default, metadata={"kind": kind, "source": source})


@dataclass(frozen=True)
class Inputs:
    """What goes in; seconds, gigabytes and dollars."""

    prompts: int = int(1e6)
    """Items of the list."""
    gpus: int = 1000
    """Actors, one a card."""
    asset_s: float = number(
        8.7,
        MEASURED,
        "an asset with MVDream and a 7B critic, random weights, H200: a sketch of the loop (log/large-models.md)",
    )
    files_s: float = number(3.0, MEASURED, "films and files, CPU seconds (log/batch.md)")
    spread: float = number(
        0.15, MEASURED, "20 to 28 s a run on two cores (log/speed.md), as sigma of a lognormal"
    )
    first_s: float = number(
        2.9, MEASURED, "more for the first asset of a process, H200 (log/large-models.md)"
    )
    imports_s: float = number(2.9, MEASURED, "imports, CPU seconds (log/batch.md)")
    load_s: float = number(
        5.5, MEASURED, "loading both models from a disk's cache, H200 (log/large-models.md)"
    )
    row_s: float = number(
        0.00047,
        MEASURED,
        "reading and checking a row of the list, CPU seconds, start of the program included (log/batch.md)",
    )
    item_s: float = number(
        0.0018,
        MEASURED,
        "giving out and recording an item, CPU seconds, with the dry workers' own share (log/batch.md)",
    )
    asked_per_s: float = number(
        100.0, MEASURED, "questions to actors a second, as the driver limits them (code)"
    )
    question_s: float = number(0.001, ASSUMED, "a question to an actor, CPU seconds")
    weights_gb: float = number(
        19.2,
        MEASURED,
        "MVDream 2.6 GB as listed (MODELS.md), Qwen2.5-VL-7B 8.3 G parameters of two bytes",
    )
    asset_gb: float = number(
        0.0053,
        MEASURED,
        "20,000 Gaussians at 248 bytes (benchmarks/README.md, formats), 0.4 MB of other files (counted)",
    )
    puts: float = number(
        13.0,
        MEASURED,
        "requests of an asset: ten files, three listings (counted in the code; later five)",
    )
    gpus_a_node: int = number(8, ASSUMED, "cards of a node, lost together")
    node_hours: float = number(24.0, ASSUMED, "mean time until a node is taken away or fails")
    away_s: float = number(300.0, ASSUMED, "until another node is in its place")
    crash: float = number(1e-4, ASSUMED, "share of assets that bring their process down")
    slow_nodes: float = number(0.02, ASSUMED, "share of nodes at half speed")
    pull_gb_s: float = number(1.25, ASSUMED, "a node's network, 10 Gbit/s")
    hub_gb_s: float = number(12.5, ASSUMED, "where weights come from, 100 Gbit/s in all")
    store_gb_s: float = number(12.5, ASSUMED, "object store, 100 Gbit/s in all")
    puts_per_s: float = number(
        3500.0, ASSUMED, "writes a second of one prefix of S3, as its maker publishes"
    )
    gpu_hour: float = number(2.5, ASSUMED, "dollars an hour of a card")
    put_price: float = number(5e-6, ASSUMED, "dollars a write, S3's list price")


@dataclass
class Line:
    """A shared part with one server of a fixed rate: who comes waits for those before.

    The time at which the server is free says all about such a queue, so a visit costs one event.
    """

    free_at: float = 0.0
    busy_s: float = 0.0
    longest_s: float = 0.0

    def visit(self, now: float, service_s: float) -> float:
        """Return how long a visit takes from now on, with the wait."""
        begin = max(now, self.free_at)
        self.free_at = begin + service_s
        self.busy_s += service_s
        self.longest_s = max(self.longest_s, begin - now)
        return self.free_at - now


@dataclass
class World:
    """One simulation."""

    inputs: Inputs
    seed: int = 0
    env: simpy.Environment = field(default_factory=simpy.Environment)
    left: int = 0
    done: int = 0
    lost_s: float = 0.0
    ended_at: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.left = self.inputs.prompts
        self.lines = {name: Line() for name in ("driver", "weights", "store")}

    def run(self) -> World:
        """Simulate until all assets are there."""
        inputs, env = self.inputs, self.env
        # The whole list is read and checked before anything is given out.
        self.lines["driver"].visit(0.0, inputs.row_s * inputs.prompts)
        self.finished = env.event()
        nodes = math.ceil(inputs.gpus / inputs.gpus_a_node)
        for index in range(nodes):
            cards = min(inputs.gpus_a_node, inputs.gpus - index * inputs.gpus_a_node)
            env.process(self._node(cards))
        env.run(until=self.finished)
        self.ended_at = env.now
        return self

    def _node(self, cards: int) -> Generator[Any, Any, None]:
        """Live, pull weights, work, be taken away, and come back as another node."""
        inputs, env = self.inputs, self.env
        while True:
            slow = 2.0 if self.random.random() < inputs.slow_nodes else 1.0
            lives_s = self.random.expovariate(1.0 / (3600.0 * inputs.node_hours))
            born = env.now
            shared_s = self.lines["weights"].visit(env.now, inputs.weights_gb / inputs.hub_gb_s)
            yield env.timeout(max(shared_s, inputs.weights_gb / inputs.pull_gb_s))

            workers = [env.process(self._worker(slow)) for _ in range(cards)]
            yield env.timeout(max(0.0, born + lives_s - env.now))
            for worker in workers:
                if worker.is_alive:
                    worker.interrupt()
            yield env.timeout(inputs.away_s)

    def _worker(self, slow: float) -> Generator[Any, Any, None]:
        """Make one asset after the other; a crash loads everything anew."""
        inputs, env, lines = self.inputs, self.env, self.lines
        begun, busy = env.now, False
        try:
            yield env.timeout((inputs.imports_s + inputs.load_s) * slow)
            first = True
            while self.left:
                self.left -= 1
                begun, busy = env.now, True
                # Each answer of an actor, and the questions to it, pass through the one driver.
                driver_s = inputs.item_s * (1.0 + self._questions_share())
                yield env.timeout(lines["driver"].visit(env.now, driver_s))

                seconds = inputs.asset_s * math.exp(self.random.gauss(0.0, inputs.spread))
                seconds = (seconds + inputs.files_s + inputs.first_s * first) * slow
                if self.random.random() < inputs.crash:
                    yield env.timeout(seconds * self.random.random())
                    self.left, busy, first = self.left + 1, False, True
                    self.lost_s += env.now - begun
                    yield env.timeout((inputs.imports_s + inputs.load_s) * slow)
                    continue
                yield env.timeout(seconds)

                write_s = max(inputs.puts / inputs.puts_per_s, inputs.asset_gb / inputs.store_gb_s)
                yield env.timeout(lines["store"].visit(env.now, write_s))
                busy, first = False, False
                self.done += 1
                if self.done == inputs.prompts:
                    self.finished.succeed()
        except simpy.Interrupt:
            if busy:
                self.left += 1
                self.lost_s += env.now - begun

    def _questions_share(self) -> float:
        """Return the driver's time for questions, as a share of that for items."""
        asked = min(self.inputs.asked_per_s, float(self.inputs.gpus)) * self.inputs.question_s
        return asked / max(1e-9, 1.0 - asked)


def scaled(inputs: Inputs, by: int) -> Inputs:
    """Return a smaller model of the same thing, whose shared parts are as busy."""
    slower = {name: getattr(inputs, name) / by for name in ("hub_gb_s", "store_gb_s", "puts_per_s")}
    longer = {name: getattr(inputs, name) * by for name in ("item_s", "row_s")}
    size = {"prompts": inputs.prompts // by, "gpus": inputs.gpus // by}
    return replace(inputs, **size, **slower, **longer)


def row(name: str, world: World) -> dict[str, str]:
    """Return what a case came to."""
    inputs, hours = world.inputs, world.ended_at / 3600.0
    gpu_hours = hours * inputs.gpus
    dollars = gpu_hours * inputs.gpu_hour + world.done * inputs.puts * inputs.put_price
    shares = {name: line.busy_s / world.ended_at for name, line in world.lines.items()}
    first = max(shares, key=lambda each: shares[each])
    return {
        "case": name,
        "hours": f"{hours:.2f}",
        "assets a GPU-hour": f"{world.done / gpu_hours:.0f}",
        "dollars a thousand": f"{1000.0 * dollars / world.done:.2f}",
        "lost": f"{world.lost_s / (world.ended_at * inputs.gpus):.2%}",
        **{f"{each} busy": f"{share:.0%}" for each, share in shares.items()},
        "gives first": first,
    }


def cases(base: Inputs) -> list[tuple[str, Inputs]]:
    """Return what is simulated: the base, then one number changed at a time."""
    changed: list[tuple[str, dict[str, Any]]] = [
        ("no failures, no stragglers", {"node_hours": 1e9, "crash": 0.0, "slow_nodes": 0.0}),
        ("without critic (4.1 s)", {"asset_s": 4.1, "weights_gb": 2.6}),
        ("an asset twice as long", {"asset_s": 2 * base.asset_s}),
        ("files cost nothing", {"files_s": 0.0}),
        ("nodes live 2 hours", {"node_hours": 2.0}),
        ("nodes live half an hour", {"node_hours": 0.5}),
        ("1 asset of 100 crashes", {"crash": 0.01}),
        ("weights at 10 Gbit/s in all", {"hub_gb_s": 1.25}),
        ("store takes 350 writes a second", {"puts_per_s": 350.0}),
        ("store at 10 Gbit/s in all", {"store_gb_s": 1.25}),
        ("driver four times as slow", {"item_s": 4 * base.item_s, "row_s": 4 * base.row_s}),
        ("ten times as many cards", {"gpus": 10 * base.gpus}),
    ]
    return [("base", base), *((name, replace(base, **values)) for name, values in changed)]


def table(rows: Sequence[dict[str, str]]) -> str:
    """Return rows as Markdown."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(each.values()) + " |" for each in rows)])


def inputs_table(inputs: Inputs) -> str:
    """Return the numbers that went in, with their origin."""
    rows = [
        {"number": each.name, "value": f"{getattr(inputs, each.name):g}", **each.metadata}
        for each in fields(inputs)
        if each.metadata
    ]
    return table(rows)


def put_between(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{page} has no marks {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Simulate, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20,000 prompts on 400 cards")
    parser.add_argument("--scale", type=int, default=10, help="the model is so much smaller")
    parser.add_argument("--prompts", type=int, default=Inputs.prompts)
    parser.add_argument("--gpus", type=int, default=Inputs.gpus)
    parser.add_argument("--only", help="cases whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="page with the marks")
    arguments = parser.parse_args()

    size = (20000, 400) if arguments.quick else (arguments.prompts, arguments.gpus)
    base = Inputs(prompts=size[0], gpus=size[1])
    plans = [("base, full size", base)]
    plans += [(name, scaled(inputs, arguments.scale)) for name, inputs in cases(base)]
    rows = []
    for name, inputs in plans:
        if arguments.only and arguments.only not in name:
            continue
        rows.append(row(name, World(inputs, arguments.seed).run()))
        print(rows[-1], flush=True)

    text = (
        f"{base.prompts:,} prompts on {base.gpus:,} cards (the rows below the first as a model of "
        f"1/{arguments.scale}), seed {arguments.seed}:\n\n{table(rows)}\n\n"
        f"What went in:\n\n{inputs_table(base)}"
    )
    print(text)
    if arguments.write:
        put_between(arguments.write, text)


if __name__ == "__main__":
    main()

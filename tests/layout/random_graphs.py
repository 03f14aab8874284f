"""Random scene graphs that have a solution because of how they are made: each object is related to an earlier one."""

from __future__ import annotations

import random
from collections import Counter

from vlm3d_gs.core.prompts import COLORS, SHAPES, article
from vlm3d_gs.layout.graph import (
    MOST_OBJECTS,
    MOST_THINGS,
    SIDEWAYS,
    Relation,
    SceneGraph,
    SceneObject,
)


def random_graph(seed: int) -> SceneGraph:  # noqa: PLR0912, a branch a relation
    """A graph of 1 to 8 objects with any relation, count and size, that can be laid out.

    Every relation joins a new object to an earlier one, so no two can contradict each other; nothing carries two
    things, and what goes into a hole is small enough.
    """
    rng = random.Random(seed)
    wanted = rng.randint(1, MOST_OBJECTS)
    objects: list[SceneObject] = []
    relations: list[Relation] = []
    used: Counter[tuple[str, str]] = Counter()

    def add(**changes: object) -> SceneObject:
        noun = f"{rng.choice(COLORS)} {changes.pop('shape', None) or rng.choice(SHAPES)}"
        name = f"{noun.replace(' ', '_')}_{len(objects)}"
        values: dict[str, object] = {"name": name, "prompt": f"{article(noun)} {noun}"}
        values["size"] = rng.choice(("tiny", "small", "normal", "normal", "normal", "large"))
        room = MOST_THINGS - sum(item.count for item in objects) - (wanted - len(objects))
        values["count"] = rng.choice((1, 1, 1, 2, 3, 4)) if room > 4 else 1
        objects.append(SceneObject(**{**values, **changes}))  # type: ignore[arg-type]
        return objects[-1]

    add()
    while len(objects) < wanted:
        earlier = rng.choice(objects)
        kind = rng.choice(
            (*SIDEWAYS, "on top of", "under", "inside", "around", "between", "nothing")
        )
        single = earlier.count == 1
        torus = earlier.prompt.endswith("torus")
        free = not used[earlier.name, "rests"] and not used[earlier.name, "carries"]
        assert 0 < sum(item.count for item in objects) <= MOST_THINGS

        if kind == "on top of" and single and free and not torus:
            made = add(count=1, shape=rng.choice(SHAPES[:4]))
            used[earlier.name, "carries"] += 1
            used[made.name, "rests"] += 1
            relations.append(Relation(subject=made.name, relation=kind, object=earlier.name))
        elif kind == "under" and single and free:
            # Flat on top, so that also a torus rests on it.
            made = add(count=1, shape="cube", **({"size": earlier.size} if torus else {}))
            used[made.name, "carries"] += 1
            used[earlier.name, "rests"] += 1
            relations.append(Relation(subject=made.name, relation=kind, object=earlier.name))
        elif kind == "inside" and single and torus and free and earlier.size in ("normal", "large"):
            if used[earlier.name, "holds"]:
                continue
            made = add(count=1, size="tiny")
            used[earlier.name, "holds"] += 1
            used[made.name, "rests"] += 1
            relations.append(Relation(subject=made.name, relation=kind, object=earlier.name))
        elif kind == "around" and not used[earlier.name, "ringed"] and free:
            if sum(item.count for item in objects) + wanted - len(objects) > MOST_THINGS - 4:
                continue
            made = add(count=rng.choice((2, 3, 4)))
            used[earlier.name, "ringed"] += 1
            relations.append(Relation(subject=made.name, relation=kind, object=earlier.name))
        elif kind == "between" and len(objects) + 2 <= wanted:
            middle, far = add(count=1), add(count=1)
            relations.append(
                Relation(subject=middle.name, relation=kind, object=earlier.name, second=far.name)
            )
        elif kind in SIDEWAYS and used[earlier.name, kind] < 1:
            if kind == "next to" and not free:
                continue
            made = add()
            used[earlier.name, kind] += 1
            if kind == "next to":
                # Something wide above, or a ring around it, could keep its neighbour away.
                used[earlier.name, "rests"] += 1
                used[made.name, "rests"] += 1
            touching = None
            if made.count == 1 and single and free and not used[earlier.name, "touched"]:
                touching = rng.choice((None, None, True, False))
                used[earlier.name, "touched"] += 1
                # What touches stays on the floor.
                used[earlier.name, "rests"] += 1
                used[made.name, "rests"] += 1
            relations.append(
                Relation(subject=made.name, relation=kind, object=earlier.name, touching=touching)
            )
        elif kind == "nothing":
            add()

    return SceneGraph(prompt=f"random {seed}", objects=tuple(objects), relations=tuple(relations))

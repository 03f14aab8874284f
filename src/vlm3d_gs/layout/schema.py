"""The JSON of a scene graph: its schema, and a reader that follows it.

`docs/scene-layout.schema.json` is this schema, published; a language model is asked for it, too. The reader checks data
against the schema itself, in the few words of JSON Schema that it uses, so the two cannot differ. A validating library
would do so too, but says neither what was given nor what is allowed in one line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from vlm3d_gs.core.errors import LayoutError
from vlm3d_gs.layout.graph import (
    MOST_COUNT,
    MOST_OBJECTS,
    MOST_THINGS,
    NAME_PATTERN,
    RELATIONS,
    SIZES,
    Relation,
    SceneGraph,
    SceneObject,
)

Schema = dict[str, Any]

_NAME: Schema = {"type": "string", "pattern": NAME_PATTERN}
_PROMPT: Schema = {"type": "string", "minLength": 1, "maxLength": 300}


def _three(low: float, high: float) -> Schema:
    number = {"type": "number", "minimum": low, "maximum": high}
    return {"type": ["array", "null"], "items": number, "minItems": 3, "maxItems": 3}


def _record(required: list[str], description: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


OBJECT = _record(
    ["name", "prompt"],
    "One object, or up to four alike.",
    name={**_NAME, "description": "Unique; lower-case letters, digits, - and _."},
    prompt={**_PROMPT, "description": "One of it in words, without size or number: 'a red cube'."},
    count={"type": "integer", "minimum": 1, "maximum": MOST_COUNT, "description": "How many."},
    size={"enum": list(SIZES), "description": "Compared with the other objects."},
    attributes={
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 100},
        "maxItems": 10,
        "description": "What is said of it beside its kind: 'red', 'ripe'.",
    },
    proportions={
        **_three(0.05, 1.0),
        "description": "Depth, width and height of its box relative to the largest; null for a cube's.",
    },
)
RELATION = _record(
    ["subject", "relation", "object"],
    "How one object stands to another, as seen from the front.",
    subject={**_NAME, "description": "Name of the object that stands there."},
    relation={"enum": list(RELATIONS)},
    object={**_NAME, "description": "Name of the object to which it stands so."},
    second={
        "type": ["string", "null"],
        "pattern": NAME_PATTERN,
        "description": "For 'between': name of the other neighbour. Else null.",
    },
    touching={
        "type": ["boolean", "null"],
        "description": "Whether they touch; null where nothing is said.",
    },
)
BOX = _record(
    ["object", "number", "center", "half_extents", "size"],
    "Where one thing stands, in world units: x towards the front camera, y to its right, z up.",
    object={**_NAME, "description": "Name of the object."},
    number={"type": "integer", "minimum": 0, "maximum": MOST_COUNT - 1},
    center={**_three(-1.0, 1.0), "type": "array"},
    half_extents={**_three(0.001, 1.0), "type": "array"},
    size={"type": "number", "minimum": 0.001, "maximum": 2.0},
)
SCENE: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "vlm3d-gs scene layout",
    **_record(
        ["objects"],
        "The objects of a scene and how they stand; with boxes, also where.",
        prompt={**_PROMPT, "description": "The whole scene in words."},
        objects={"type": "array", "items": OBJECT, "minItems": 1, "maxItems": MOST_OBJECTS},
        relations={"type": "array", "items": RELATION, "maxItems": 32},
        boxes={
            "type": ["array", "null"],
            "items": BOX,
            "maxItems": MOST_THINGS,
            "description": "Of every thing; leave it out to have them found.",
        },
    ),
}
"""Schema of a layout file."""


def model_schema() -> Schema:
    """Return the schema that a language model fills: all fields, no boxes, as strict constrained decoding wants it."""

    def strict(record: Schema) -> Schema:
        return {**record, "required": list(record["properties"])}

    scene = strict(SCENE)
    fields = dict(scene["properties"])
    del fields["boxes"], fields["prompt"]
    fields["objects"] = {**fields["objects"], "items": strict(OBJECT)}
    fields["relations"] = {**fields["relations"], "items": strict(RELATION)}
    scene = {**scene, "properties": fields, "required": list(fields)}
    del scene["$schema"]
    return scene


def published_schema() -> str:
    """Return the schema of layout files as the text of `docs/scene-layout.schema.json`."""
    return json.dumps(SCENE, indent=2) + "\n"


def graph_from_plain(data: object, prompt: str = "") -> SceneGraph:
    """Return the scene graph that plain data describes.

    Args:
        data: parsed JSON, of any shape.
        prompt: of the scene, if the data has none.

    Raises:
        LayoutError: it does not follow the schema, or its names do not fit together; the message says where, what was
            given and what is allowed.
    """
    check(data, SCENE, "the layout")
    assert isinstance(data, Mapping)

    objects = [
        SceneObject(
            **{
                **item,
                "count": int(item.get("count", 1)),
                "attributes": tuple(item.get("attributes", ())),
                "proportions": None
                if item.get("proportions") is None
                else tuple(item["proportions"]),
            }
        )
        for item in data["objects"]
    ]
    graph = SceneGraph(
        prompt=data.get("prompt", prompt) or "the scene",
        objects=tuple(objects),
        relations=tuple(Relation(**item) for item in data.get("relations", ())),
    )
    return graph


def graph_to_plain(graph: SceneGraph) -> dict[str, Any]:
    """Return a scene graph as plain data for JSON; the inverse of `graph_from_plain`."""
    return {
        "prompt": graph.prompt,
        "objects": [
            {
                "name": item.name,
                "prompt": item.prompt,
                "count": item.count,
                "size": item.size,
                "attributes": list(item.attributes),
                "proportions": None if item.proportions is None else list(item.proportions),
            }
            for item in graph.objects
        ],
        "relations": [
            {
                "subject": one.subject,
                "relation": one.relation,
                "object": one.object,
                "second": one.second,
                "touching": one.touching,
            }
            for one in graph.relations
        ],
    }


_KINDS: dict[str, tuple[type, ...]] = {
    "object": (Mapping,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
}


def check(data: object, schema: Schema, where: str) -> None:
    """Require that data follows a schema.

    Args:
        data: parsed JSON.
        schema: of the words used in this file.
        where: what the data is, for the message.

    Raises:
        LayoutError: it does not.
    """
    if "enum" in schema:
        if not isinstance(data, str) or data not in schema["enum"]:
            raise LayoutError(
                f"{where} must be one of {', '.join(schema['enum'])}, got {_shown(data)}."
            )
        return

    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kind = next((one for one in kinds if _is(data, one)), None)
    if kind is None:
        raise LayoutError(f"{where} must be of type {' or '.join(kinds)}, got {_shown(data)}.")

    if isinstance(data, Mapping):
        _check_record(data, schema, where)
    elif isinstance(data, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not low <= len(data) <= high:
            allowed = f"{low}" if low == high else f"{low} to {high}"
            raise LayoutError(f"{where} must have {allowed} entries, got {len(data)}.")
        for number, item in enumerate(data):
            check(item, schema["items"], f"{where}[{number}]")
    elif isinstance(data, str):
        low, high = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if not low <= len(data) <= high:
            raise LayoutError(f"{where} must have {low} to {high} characters, got {len(data)}.")
        if "pattern" in schema and not re.search(schema["pattern"], data):
            raise LayoutError(f"{where} must match {schema['pattern']}, got {_shown(data)}.")
    elif isinstance(data, int | float) and not isinstance(data, bool):
        low, high = schema["minimum"], schema["maximum"]
        if not low <= data <= high:
            raise LayoutError(f"{where} must be {low:g} to {high:g}, got {data!r}.")


def _check_record(data: Mapping[str, object], schema: Schema, where: str) -> None:
    known = schema["properties"]
    for name in data:
        if name not in known:
            raise LayoutError(f"{where} has no field {_shown(name)}. Known: {', '.join(known)}.")
    for name in schema["required"]:
        if name not in data:
            raise LayoutError(
                f"{where} lacks {name!r}: {known[name].get('description', 'it is needed')}"
            )
    for name, value in data.items():
        check(value, known[name], f"{name} of {where}")


def _is(data: object, kind: str) -> bool:
    if kind in ("number", "integer"):
        whole = isinstance(data, int) or (isinstance(data, float) and data.is_integer())
        numeric = isinstance(data, int | float) and not isinstance(data, bool)
        return numeric and (kind == "number" or whole)
    return isinstance(data, _KINDS[kind])


def _shown(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 60 else f"{text[:57]}..."

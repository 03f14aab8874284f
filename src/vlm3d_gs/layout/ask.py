"""A scene graph by a language model: asked for the schema, checked, and asked again with what was wrong."""

from __future__ import annotations

import json
from collections.abc import Callable

from vlm3d_gs.core.errors import LayoutError, ModelError
from vlm3d_gs.layout.graph import MOST_COUNT, MOST_OBJECTS, SceneGraph
from vlm3d_gs.layout.schema import graph_from_plain, model_schema

ATTEMPTS = 3
"""How often a model is asked in all."""
SHOWN_CHARACTERS = 1500
"""Of an answer that was not taken, when the model is asked again."""

Writer = Callable[[str], str]
"""A language model: request -> answer."""

REQUEST = """Somebody wants a 3D scene of this description: {prompt}

List its objects and how they stand to each other, as JSON that follows this JSON Schema:
{schema}

Rules:
- At most {objects} objects. Several alike are one object with a count of at most {count}.
- An object's prompt describes one of it by itself, with its colours and materials, without number, size or place.
- Relations are as seen from the front. State those that the description states, and those that it clearly implies, such
as what something lies on. Nothing rests on two objects.
- Proportions are depth, width and height relative to the largest of the three.

Answer with the JSON object and nothing else."""
AGAIN = """{request}

Your answer was:
{answer}

It cannot be used: {error}
Answer with the corrected JSON object and nothing else."""


def ask_for_graph(
    prompt: str, write: Writer, solve: Callable[[SceneGraph], object] | None = None
) -> SceneGraph:
    """Ask a language model for the scene graph of a prompt.

    Args:
        prompt: any description.
        write: the model.
        solve: called with each graph; a LayoutError of its counts as a wrong answer, too. E.g. `solve_layout`.

    Raises:
        ModelError: none of `ATTEMPTS` answers could be used; the message says what was wrong with the last.
    """
    request = REQUEST.format(
        prompt=prompt,
        schema=json.dumps(model_schema()),
        objects=MOST_OBJECTS,
        count=MOST_COUNT,
    )
    asked, wrong = request, ""
    for _ in range(ATTEMPTS):
        answer = write(asked)
        try:
            graph = graph_from_plain(_json_of(answer), prompt)
            if solve is not None:
                solve(graph)
            return graph
        except LayoutError as error:
            wrong = str(error)
        asked = AGAIN.format(request=request, answer=answer[:SHOWN_CHARACTERS], error=wrong)

    raise ModelError(
        f"The model gave no usable layout of {prompt!r} in {ATTEMPTS} answers. Of the last: {_printable(wrong)} "
        "Write the layout yourself (--layout FILE), or ask another model (--critic, --set critic.server.model=NAME)."
    )


def _json_of(answer: str) -> object:
    """Return the JSON object in an answer, which may stand among other words or in a code block.

    Raises:
        LayoutError: there is none.
    """
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        raise LayoutError("there is no JSON object in it.")
    try:
        return json.loads(answer[start : end + 1])
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"it is not JSON ({error}).") from None


def _printable(text: str) -> str:
    """Return what may hold words of a model without what could steer a terminal."""
    return "".join(one if one.isprintable() else " " for one in text)[:500]

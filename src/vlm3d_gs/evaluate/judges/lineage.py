"""Whether a judge is the critic that a run was optimised for: it would grade its own work."""

from __future__ import annotations

import re

from vlm3d_gs.core.errors import ConfigError

FAMILIES = (
    "qwen3-vl",
    "qwen2.5-vl",
    "qwen2-vl",
    "internvl",
    "gemma",
    "llava",
    "idefics",
    "smolvlm",
    "pixtral",
    "minicpm",
    "phi",
    "gpt",
    "claude",
    "gemini",
)
"""Names of lines of models, as they occur in ids; the first that fits counts."""
OTHERS = "OpenGVLab/InternVL3-2B-hf, google/gemma-3-4b-it or Qwen/Qwen3-VL-4B-Instruct"
"""Judges of other families than the default critic's, as ids of the hub."""


def family(model: str) -> str:
    """Return the line that a model belongs to, or its own plain name where none is known.

    Example:
        >>> family("Qwen/Qwen2.5-VL-7B-Instruct"), family("qwen2_5_vl-3b"), family("OpenGVLab/InternVL3-2B-hf")
        ('qwen2.5-vl', 'qwen2.5-vl', 'internvl')
    """
    plain = re.sub(r"2[_-]5", "2.5", model.lower()).replace("_", "-")
    squeezed = plain.replace("-", "")
    for name in FAMILIES:
        if name.replace("-", "") in squeezed:
            return name
    return plain.rpartition("/")[2]


def check_other_family(judge: str, critics: set[str], *, allowed: bool = False) -> str | None:
    """Return a warning if a judge is of a critic's family, where that is allowed.

    Args:
        judge: its model.
        critics: models or families of the critics that the judged runs were optimised for.
        allowed: go on all the same.

    Raises:
        ConfigError: it is of a critic's family, and that is not allowed.
    """
    same = sorted(one for one in critics if family(one) == family(judge))
    if not same:
        return None
    warning = (
        f"The judge {judge} is of the family of the critic that these runs were optimised for ({', '.join(same)}), and "
        "so favours what that critic taught them."
    )
    if not allowed:
        raise ConfigError(
            f"{warning} Choose another, e.g. {OTHERS}, or allow it with --own-critic; the result then says so."
        )
    return warning

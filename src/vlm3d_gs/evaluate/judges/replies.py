"""Reading what a judge wrote: strictly, since a guess at what it meant would be our verdict and not its own."""

from __future__ import annotations

from vlm3d_gs.core.errors import InputFileError


def read_choices(text: str, count: int) -> tuple[int, ...]:
    """Return the numbers on the last line of an answer.

    Args:
        text: the whole answer.
        count: how many numbers of 1 to 3 the last line must consist of, with nothing between them but blanks.

    Raises:
        InputFileError: the last line is anything else.
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    words = last.split()
    if len(words) != count or any(word not in ("1", "2", "3") for word in words):
        wanted = "one number" if count == 1 else f"{count} numbers"
        raise InputFileError(
            f"the last line must be {wanted} of 1, 2 or 3 and nothing else, got {last[:80]!r}"
        )
    return tuple(int(word) for word in words)

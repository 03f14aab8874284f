"""What is done to a splat between reading and writing, and how people write it; standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vlm3d_gs.core.errors import ConfigError

Triple = tuple[float, float, float]
UNBOUNDED = ("", "-")
"""How a bound of a box that does not exist may be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """Edits in the order in which they happen; lengths and places in the axes and units of the file."""

    box: tuple[Triple, Triple] | None = None
    """Lowest and highest coordinates of the centres that are kept; infinite where there is no bound."""
    sphere: tuple[Triple, float] | None = None
    """Centre and radius; what lies outside is dropped."""
    min_opacity: float | None = None
    """Gaussians below this opacity, 0 to 1, are dropped."""
    max_scale: float | None = None
    """Gaussians with a larger standard deviation along any axis are dropped."""
    largest_part: bool = False
    """Whether everything that is not connected to the largest part is dropped."""
    decimate: str | None = None
    """How many Gaussians are kept, those that contribute most to pictures: a number, or a share "25%"."""
    scale: float = 1.0
    """Factor of all sizes and of distances from the origin, above 0."""
    rotate_deg: Triple = (0.0, 0.0, 0.0)
    """Degrees about the x, then the y, then the z axis, which stay where they are."""
    translate: Triple = (0.0, 0.0, 0.0)
    """Added to all positions, last."""

    def __post_init__(self) -> None:
        if self.min_opacity is not None and not 0.0 <= self.min_opacity <= 1.0:
            raise ConfigError(f"The smallest opacity must be 0 to 1, got {self.min_opacity:g}.")
        if self.max_scale is not None and not self.max_scale > 0.0:
            raise ConfigError(f"The largest scale must be above 0, got {self.max_scale:g}.")
        if not (self.scale > 0.0 and math.isfinite(self.scale)):
            raise ConfigError(f"The factor of the size must be above 0, got {self.scale:g}.")


def parse_edits(
    *,
    crop: str | None = None,
    sphere: str | None = None,
    rotate: str | None = None,
    translate: str | None = None,
    min_opacity: float | None = None,
    max_scale: float | None = None,
    largest_part: bool = False,
    decimate: str | None = None,
    scale: float = 1.0,
) -> Edits:
    """Return the edits that somebody asks for on a command line.

    Args:
        crop: "x,y,z,X,Y,Z", lowest and highest corner; a bound that is "-" or empty does not exist.
        sphere: "x,y,z,radius".
        rotate: "x,y,z" in degrees.
        translate: "x,y,z".
        min_opacity: as in `Edits`, like all that follow.
        max_scale: see above.
        largest_part: see above.
        decimate: see above.
        scale: see above.

    Raises:
        ConfigError: other numbers, or more or fewer of them.
    """
    if decimate is not None:
        kept_count(decimate, 1)  # refused before the file is read
    return Edits(
        box=None if crop is None else parse_box(crop),
        sphere=None if sphere is None else parse_sphere(sphere),
        min_opacity=min_opacity,
        max_scale=max_scale,
        largest_part=largest_part,
        decimate=decimate,
        scale=scale,
        rotate_deg=(0.0, 0.0, 0.0) if rotate is None else parse_triple("rotate", rotate),
        translate=(0.0, 0.0, 0.0) if translate is None else parse_triple("translate", translate),
    )


def parse_box(text: str) -> tuple[Triple, Triple]:
    """Return the corners of a box written as "x,y,z,X,Y,Z".

    Raises:
        ConfigError: not six numbers, or a lowest coordinate above the highest.
    """
    parts = [part.strip() for part in text.split(",")]
    bounds = ["-inf" if index < 3 else "inf" for index in range(6)]
    filled = [
        bound if part in UNBOUNDED else part for part, bound in zip(parts, bounds, strict=False)
    ]
    x, y, z, far_x, far_y, far_z = _numbers("crop", ",".join(filled), 6, text)
    low, high = (x, y, z), (far_x, far_y, far_z)
    if len(parts) != 6 or any(a > b for a, b in zip(low, high, strict=True)):
        raise ConfigError(
            f"--crop needs the lowest corner, then the highest, as x,y,z,X,Y,Z; got {text!r}."
        )
    return low, high


def parse_sphere(text: str) -> tuple[Triple, float]:
    """Return the centre and the radius of a sphere written as "x,y,z,radius".

    Raises:
        ConfigError: not four numbers, or a radius that is not above 0.
    """
    x, y, z, radius = _numbers("sphere", text, 4, text)
    if not radius > 0.0:
        raise ConfigError(f"--sphere needs a radius above 0 as its fourth number, got {text!r}.")
    return (x, y, z), radius


def parse_triple(name: str, text: str) -> Triple:
    """Return three finite numbers written as "x,y,z".

    Raises:
        ConfigError: something else.
    """
    x, y, z = _numbers(name, text, 3, text)
    if not all(map(math.isfinite, (x, y, z))):
        raise ConfigError(f"--{name} needs finite numbers, got {text!r}.")
    return x, y, z


def kept_count(text: str, count: int) -> int:
    """Return how many of `count` Gaussians "N" or "P%" means, at least 1.

    Raises:
        ConfigError: neither a whole number above 0 nor a percentage above 0.
    """
    try:
        if text.strip().endswith("%"):
            share = float(text.strip()[:-1]) / 100.0
            if 0.0 < share <= 1.0:
                return max(1, round(share * count))
        elif int(text) > 0:
            return min(int(text), count)
    except ValueError:
        pass
    raise ConfigError(
        f"--decimate needs how many Gaussians to keep, 50000 for example, or a share such as 25%; got {text!r}."
    )


def _numbers(name: str, text: str, count: int, given: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or any(map(math.isnan, numbers)):
        raise ConfigError(
            f"--{name} needs {count} numbers with commas between them, got {given!r}."
        )
    return numbers

"""SPZ, Niantic's compressed format."""

from __future__ import annotations

from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.spz.stream import open_spz, save_spz

CODEC = Codec(
    open=lambda source, _: open_spz(source),
    save=lambda splat, path, options: save_spz(splat, path, version=options.spz_version),
)

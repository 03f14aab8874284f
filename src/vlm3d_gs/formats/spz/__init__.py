"""SPZ, Niantic's compressed format."""

from __future__ import annotations

from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.spz.stream import load_spz, save_spz

CODEC = Codec(
    load=lambda source, _: load_spz(source),
    save=lambda arrays, path, options: save_spz(arrays, path, version=options.spz_version),
)

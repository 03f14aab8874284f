"""SPZ, Niantic's compressed format."""

from __future__ import annotations

from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.spz.stream import frame_of, load_spz, save_spz

CODEC = Codec(
    load=lambda source, options: load_spz(source, spz_frame=options.spz_frame),
    save=lambda arrays, path, options: save_spz(arrays, path, version=options.spz_version),
    frame=lambda options: frame_of(options.spz_frame),
)

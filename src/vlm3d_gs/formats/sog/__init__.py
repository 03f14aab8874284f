"""SOG, PlayCanvas' web format."""

from __future__ import annotations

from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.sog.reader import is_sog, load_sog
from vlm3d_gs.formats.sog.writer import save_sog

CODEC = Codec.whole(
    lambda source, _: load_sog(source),
    lambda arrays, path, _: save_sog(arrays, path),
    accepts=is_sog,
)

"""SOG, PlayCanvas' web format."""

from __future__ import annotations

from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.sog.reader import load_sog
from vlm3d_gs.formats.sog.writer import save_sog

CODEC = Codec.plain(load_sog, save_sog)

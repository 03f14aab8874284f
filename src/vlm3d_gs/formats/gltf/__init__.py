"""Splats in binary glTF."""

from __future__ import annotations

from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.gltf.reader import load_glb
from vlm3d_gs.formats.gltf.writer import save_glb

CODEC = Codec.plain(load_glb, save_glb)

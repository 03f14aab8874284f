"""Splats in glTF, binary or not."""

from __future__ import annotations

from vlm3d_gs.formats.codec import Codec
from vlm3d_gs.formats.gltf.document import is_gltf
from vlm3d_gs.formats.gltf.reader import load_glb
from vlm3d_gs.formats.gltf.writer import save_glb, save_glb_nodes

CODEC = Codec.whole(
    lambda source, _: load_glb(source),
    lambda arrays, path, _: save_glb(arrays, path),
    accepts=is_gltf,
    save_parts=save_glb_nodes,
)

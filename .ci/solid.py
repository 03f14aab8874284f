"""Writes the splat of a solid scene, since ten steps make none that has a surface.

Usage: python solid.py FILE
"""

import sys

import torch

from vlm3d_gs import write_splat
from vlm3d_gs.core.prompts import parse_composition
from vlm3d_gs.mini.world.scenes import build_scene
from vlm3d_gs.mini.world.splats import scene_to_gaussians

scene = build_scene(parse_composition("a red cube"))
write_splat(scene_to_gaussians(scene, 3000, torch.Generator().manual_seed(0)), sys.argv[1])

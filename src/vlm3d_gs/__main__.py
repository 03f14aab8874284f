"""`python -m vlm3d_gs` is the same as `vlm3d-gs`."""

from vlm3d_gs.cli import app

app(prog_name="vlm3d-gs")

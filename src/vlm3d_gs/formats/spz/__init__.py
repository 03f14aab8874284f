"""SPZ, Niantic's compressed splat."""

"""The embedded diffusion prior: codec, data, training."""

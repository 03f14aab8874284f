"""Diffusion priors: noise, networks, and the losses that distil them."""

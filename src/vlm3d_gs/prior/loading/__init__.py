"""Loads the folder of a diffusion pipeline."""

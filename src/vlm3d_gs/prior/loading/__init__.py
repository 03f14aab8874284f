"""Reading a diffusion pipeline's folder."""

"""The compiled rasteriser for CPUs: `rasterize` is the entry point, the other files hold its Numba kernels."""

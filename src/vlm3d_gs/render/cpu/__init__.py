"""The compiled rasteriser for CPUs: `rasterize` is its door, the other files hold its Numba kernels."""

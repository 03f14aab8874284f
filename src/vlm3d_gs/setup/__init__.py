"""Puts gsplat, which renders on NVIDIA cards, into this environment: no CUDA toolkit and no root needed.

gsplat's package on the index holds sources, which are compiled where a CUDA toolkit is found; else it does nothing.
But CUDA 13's compiler comes as packages too, so `gpu.py` fetches it into a cache of ours and builds with it.
"""

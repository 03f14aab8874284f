"""The constants that define the picture, shared by every backend. They are gsplat's.

docs/CONVENTIONS.md explains them. gsplat 1.5.3 caps alpha at 0.999, gsplat 1.6.0 at 0.99; everything
else is equal.
"""

from __future__ import annotations

ALPHA_CAP = 0.999
"""A Gaussian covers at most this share of a pixel; where it would cover more, no gradient flows."""
ALPHA_FLOOR = 1.0 / 255.0
"""A Gaussian that covers less of a pixel is skipped there."""
TRANSMITTANCE_STOP = 1e-4
"""A pixel ends before the Gaussian that would push its transmittance to this value or below."""
DILATION_PX2 = 0.3
"""Added to both diagonal entries of the 2D covariance."""
NEAR = 0.01
"""Gaussians whose centre has a smaller depth are not drawn, world units."""
FRUSTUM_MARGIN = 0.3
"""The projection's Jacobian is taken at most this share of half the picture outside it (of its tangent)."""
DEPTH_EPS = 1e-10
"""Expected depth divides by alpha, but never by less."""

"""How good a finished scene is, judged from its Gaussians alone."""

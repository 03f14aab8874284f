"""The loop that optimises the Gaussians, and the interface of what guides them."""

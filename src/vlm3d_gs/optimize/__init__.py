"""The loop that changes Gaussians, and what pulls on them."""

"""Qwen-VL models as differentiable functions of images."""

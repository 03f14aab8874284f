"""Splats in binary glTF."""

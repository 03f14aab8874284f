"""Cleaning up and moving splats: what is kept, where it stands, and conversion with such edits."""

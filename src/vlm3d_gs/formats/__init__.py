"""Splat files: one table of formats, and one file or room for each."""

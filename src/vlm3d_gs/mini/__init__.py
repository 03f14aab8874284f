"""The embedded models: the small world they know, how they are trained, and their weights."""

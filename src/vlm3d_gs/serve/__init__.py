"""A service: prompts by HTTP, progress as events, assets by URL."""

"""Many prompts: lists, ids, workers that keep their models loaded, the manifest, and what drives them."""

"""The measure: how good a finished scene is."""

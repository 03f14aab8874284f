"""The mini world: scenes, exact pictures, splats and questions with known answers."""

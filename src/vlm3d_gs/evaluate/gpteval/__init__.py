"""GPTEval3D: its folders, its comparisons and its ratings, with intervals and both orders of every pair."""

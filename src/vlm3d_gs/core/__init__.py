"""The types that everything else is built from, and the checks, seeds and files around them."""

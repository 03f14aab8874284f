"""The nouns that everything else is made of, and the checks, seeds and files around them."""

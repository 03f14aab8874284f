"""The page to type in: `workshop` makes runs and finds earlier ones, `page` is what a person sees of it."""

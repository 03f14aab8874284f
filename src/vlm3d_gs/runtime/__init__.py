"""Networks as graphs of an inference runtime: exported once, computed without the library that defined them."""

"""Layouts: which objects a prompt names, how they stand to each other, and boxes that satisfy it all."""

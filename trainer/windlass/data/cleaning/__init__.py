"""Cleaning of texts: each module has one step, a function from a text to a text, or to None where it is left out."""

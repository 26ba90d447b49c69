"""One configurable decoder, generation, and weights in and out."""

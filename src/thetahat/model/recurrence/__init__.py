"""Layers that carry a state from position to position, in place of keys and values of all of them."""

"""Tokens with their bytes, and sequences of them as trees."""

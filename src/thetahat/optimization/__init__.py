"""Gradient to parameters: argmax, one step at a time."""

"""Ranks and meshes: knows tensors, not models."""

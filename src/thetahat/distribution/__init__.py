"""Ranks: sums and gathers tensors over processes; it knows nothing of models."""

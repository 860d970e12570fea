"""Inputs to hidden states and logits; knows no targets, weights or ranks."""

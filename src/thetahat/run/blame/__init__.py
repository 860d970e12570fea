"""Finds what made a step non-finite: the sequence, the module, the token."""

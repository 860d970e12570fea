"""A row for every scored sequence, and what rows add up to."""

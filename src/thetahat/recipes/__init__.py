"""Full configs to start from, as deltas from a base."""

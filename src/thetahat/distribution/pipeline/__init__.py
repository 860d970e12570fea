"""A model whose layers lie on several ranks, through which micro-batches go."""

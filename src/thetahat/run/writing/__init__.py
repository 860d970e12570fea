"""Text that a model writes, behind prompts as they are in its training."""

"""How likely a text is under a model."""

"""Training: the config, the state, the step, the loop."""

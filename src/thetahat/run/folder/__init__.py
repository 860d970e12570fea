"""The run folder: its name, its config, its checkpoints."""

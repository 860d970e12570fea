"""What joins a run with its neighbours, one file a verb."""

"""Who sees whom, by which kernel."""

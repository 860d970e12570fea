"""A zoo of failures: each is put into a real training run, and what the run says of it is counted."""

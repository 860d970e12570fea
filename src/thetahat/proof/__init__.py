"""What `verify` and benchmarks share: batches of a config, and the definition of its objective."""

"""What verify and bench share: batches of a config and the definition of its objective."""

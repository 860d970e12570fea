"""Records in the cache, in shards: what was parsed of a file is found again, whatever lies beside the file."""

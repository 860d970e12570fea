"""Records to ids on disk."""

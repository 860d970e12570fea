"""A run shown by the trackers that people use; its folder stays the truth, and another process reads it for them."""

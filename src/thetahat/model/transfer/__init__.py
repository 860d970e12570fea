"""Learning rates that are carried over from a small model to a wider and deeper one."""

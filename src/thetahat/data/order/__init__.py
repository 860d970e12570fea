"""Which sequences are read in which step, and where in its rows."""

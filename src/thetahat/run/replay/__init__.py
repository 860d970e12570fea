"""Makes a step of a run again, and asks it questions."""

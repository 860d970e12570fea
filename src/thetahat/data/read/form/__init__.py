"""In which form records are written: ours, and those of others."""

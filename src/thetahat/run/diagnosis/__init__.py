"""What looks for faults in a run: before its first step, and while it trains."""

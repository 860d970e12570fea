"""What a signal means: baselines, the failures that they are compared with, and what is said of them."""

"""What an export has beside what every folder of a model has: a frame, a card, an adapter's files."""

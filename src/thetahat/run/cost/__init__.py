"""What a training costs: operations, memory over ranks, bytes between them, seconds, energy; and whether it fits."""

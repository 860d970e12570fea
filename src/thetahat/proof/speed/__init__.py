"""What a step of training takes on this machine: time, memory, and where they go."""

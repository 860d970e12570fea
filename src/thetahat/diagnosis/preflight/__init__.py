"""Checks that are made before the first step, and leave model, optimizer and random numbers as they were."""

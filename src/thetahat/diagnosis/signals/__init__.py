"""What is measured while a model trains: pure functions of model, optimizer and what the kernels told."""

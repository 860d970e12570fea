"""What is wrong with a run: pure functions of a model, its optimizer, its data and what the kernels told."""

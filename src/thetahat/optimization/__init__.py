"""Updates parameters by their gradients."""

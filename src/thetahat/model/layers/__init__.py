"""What blocks and heads are made of, attention apart."""

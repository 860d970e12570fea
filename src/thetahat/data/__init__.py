"""The dataset D: text becomes documents, tokens, pieces and rows. It knows no targets."""

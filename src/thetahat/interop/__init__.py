"""Models of others: folders as Hugging Face's transformers writes and reads them, in both directions."""

"""How likely: of a loaded model or a ledger."""

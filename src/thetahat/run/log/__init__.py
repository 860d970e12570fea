"""What a run records: metrics, reports and the ledger."""

"""What a run writes down: metrics, reports, the ledger."""

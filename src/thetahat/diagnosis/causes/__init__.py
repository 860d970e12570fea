"""Why a run went as it did: what its alarms and its numbers point at, ranked."""

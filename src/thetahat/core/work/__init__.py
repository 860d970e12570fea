"""Long work: who does it, and how far it is."""

"""The nouns that every other layer speaks in."""

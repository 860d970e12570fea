"""Dialogues to token ids, by a template."""

"""Architectures, measured on small models: docs/14-architectures.md tells what came out."""

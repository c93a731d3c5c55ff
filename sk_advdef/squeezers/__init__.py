"""Transformers that lower the precision of the input."""

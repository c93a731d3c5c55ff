"""Detectors of adversarial input, and the classifier that rejects it."""

"""Classifiers that are trained to be harder to fool."""

"""Scores, scorers and reports: what a defence is worth under attack."""

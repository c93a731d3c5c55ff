"""Attacks: what the defences are trained and judged against."""

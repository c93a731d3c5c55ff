"""What an attacker may learn by asking: feedback, similar queries, rate."""

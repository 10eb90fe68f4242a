"""What an experiment has shown: observations.py → sequences.py → effects.py → verdict.py; desk.py acts on it."""

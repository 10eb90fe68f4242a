"""What an experiment has shown: outcomes.py → sequences.py → effects.py → verdict.py → report.py; watch.py acts on it."""

"""From evidence to a written answer: prompt → grammar → engine → checked lines. Read answerer.py first."""

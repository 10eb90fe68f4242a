"""Measures a ranking against labels: metrics (pure) and the pipeline that asks the questions."""
